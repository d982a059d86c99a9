"""A way out of the cluster, for who asks for it: the only thing that changes this machine's own network.

Every iptables rule is marked with the cluster's tag and with what ip_forward was before the first of them. So
nothing need be recorded: the rules themselves say whose they are, and what to put back after the last.
"""

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .plan import PREFIX, Cluster
from .shell import run

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Rule:
    """One rule of ours in this machine's iptables."""

    table: str
    words: tuple[str, ...]
    """Of iptables-save, from the chain on."""
    tag: str
    forwarding_before: str


def wanted(cluster: Cluster, forwarding_before: str) -> list[Rule]:
    """What lets a cluster out: its packets are forwarded, and leave with this machine's address."""
    tag, inside, link = cluster.tag, str(cluster.subnet), cluster.host_link
    mark = ("-m", "comment", "--comment", f"{tag}:{forwarding_before}")
    rules = [
        ("nat", ("POSTROUTING", "-s", inside, "!", "-d", inside, *mark, "-j", "MASQUERADE")),
        ("filter", ("FORWARD", "-i", link, *mark, "-j", "ACCEPT")),
        ("filter", ("FORWARD", "-o", link, *mark, "-j", "ACCEPT")),
    ]
    return [Rule(table, words, tag, forwarding_before) for table, words in rules]


def parse(saved: str) -> list[Rule]:
    """All clusters' rules in the words of iptables-save."""
    found: list[Rule] = []
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        mark = re.search(rf"--comment \"?({PREFIX}-[0-9a-f]{{6}}):([01])\"? ", line)
        if line.startswith("-A ") and mark:
            found.append(Rule(table, tuple(shlex.split(line)[1:]), mark.group(1), mark.group(2)))
    return found


def present() -> list[Rule]:
    """All clusters' rules on this machine."""
    return parse(run(["iptables-save"])) if shutil.which("iptables-save") else []


def ensure(cluster: Cluster) -> bool:
    """Open the way out; whether it was closed."""
    there = present()
    before = there[0].forwarding_before if there else FORWARDING.read_text().strip()
    missing = [rule for rule in wanted(cluster, before) if rule not in there]
    for rule in missing:
        # First in its chain: another program's rule may drop whatever comes after it.
        run(["iptables", "--wait", "--table", rule.table, "--insert", *rule.words])
    FORWARDING.write_text("1")
    return bool(missing)


def remove(tag: str) -> bool:
    """Close the way out; whether it was open."""
    there = present()
    ours = [rule for rule in there if rule.tag == tag]
    for rule in ours:
        run(["iptables", "--wait", "--table", rule.table, "--delete", *rule.words])
    if ours and len(ours) == len(there):
        FORWARDING.write_text(ours[0].forwarding_before)
    return bool(ours)


RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second names what systemd's local resolver asks."""


def upstream_resolvers(files: Sequence[Path] = RESOLVERS) -> list[str]:
    """This machine's name servers, as far as others than itself can ask them."""
    for path in files:
        if path.exists():
            words = [line.split() for line in path.read_text().splitlines()]
            servers = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
            reachable = [server for server in servers if not server.startswith("127.") and ":" not in server]
            if reachable:
                return reachable
    return []

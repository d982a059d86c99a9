"""The command line: `python3 hack/cluster COMMAND`."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import build, extras, gpus, images, network, status
from . import node as nodes
from . import up as starting
from .api import Api
from .console import ClusterError, Console, complain
from .down import down
from .paths import Paths
from .plan import Cluster, check_name, parse_subnet

DESCRIPTION = """\
A real Kubernetes on this machine: etcd, API server, controllers, scheduler, and as many nodes as you like,
each with its own containerd, kubelet, kube-proxy, network and disk. With CoreDNS, the Kubeflow
training-operator and volumes that all nodes share.

  python3 hack/cluster build                       once, minutes: compile everything
  python3 hack/cluster up                          seconds: two nodes, Ready
  eval "$(python3 hack/cluster env)"               KUBECONFIG, and kubectl and helm on the PATH
  python3 hack/cluster load image.tar              an image into every node
  python3 hack/cluster down                        and nothing is left
"""

EPILOG = """\
Several clusters live side by side: give each a --name (or a --state folder of your own).
Exit codes: 0 fine; 1 failed or not healthy; 2 asked for wrongly or something is missing; 3 no such cluster.
"""

PASSED_ON = ("kubectl", "helm")
"""Commands that are other programs, whose words are not ours to read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    ours, theirs = split(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(ours, argparse.Namespace(theirs=theirs))
    # SIGTERM is treated as Ctrl-C: clean up, then end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result: int = options.run(options)
        return result
    except ClusterError as problem:
        complain(f"error: {problem}")
        return problem.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; so has the place for complaints, also for Python's own at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our words, and those of the program that they run: all that follow our own options."""
    if arguments[:1] not in [[program] for program in PASSED_ON]:
        return arguments, []
    end = 1
    while end < len(arguments) and arguments[end].partition("=")[0] in ("--name", "--state", "--cache"):
        end += 1 if "=" in arguments[end] else 2
    theirs = arguments[end:]
    return arguments[:end], theirs[1:] if theirs[:1] == ["--"] else theirs


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    shape = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="python3 hack/cluster", description=DESCRIPTION, epilog=EPILOG, formatter_class=shape
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--name", default="default", help="which cluster (default: %(default)s)")
    where.add_argument("--state", type=Path, help="its folder (default: /var/tmp/phitune-cluster/NAME)")
    cache = argparse.ArgumentParser(add_help=False)
    cache.add_argument(
        "--cache", type=Path, default=build.default_cache(), help="programs (default: %(default)s)"
    )

    def command(
        name: str, run: object, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=shape, parents=parents
        )
        made.set_defaults(run=run)
        return made

    compile_all = command("build", _build, "Compile the programs, once.\nWhat is built already stays.", cache)
    compile_all.add_argument(
        "--with",
        dest="extras",
        action="append",
        default=[],
        choices=[piece.name for piece in build.EXTRAS],
        help="compile this, too; may be repeated",
    )

    bring = command(
        "up",
        _up,
        "Bring a cluster up and wait until it is ready.\n"
        "On a running cluster: look at everything, and bring back what is dead.\n"
        "Ctrl-C during the first `up` takes away what it made.",
        where,
        cache,
    )
    bring.add_argument("--nodes", type=int, help="how many (default: 2); more than before adds nodes")
    bring.add_argument(
        "--subnet", help="a /16 for nodes and pods (default: the first free of 10.200.0.0/16, ...)"
    )
    bring.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="NODE=PRODUCT:COUNT[:MEMORY_MIB:MAJOR.MINOR]",
        help="pretend GPUs on a node; may be repeated",
    )
    bring.add_argument(
        "--egress",
        action=argparse.BooleanOptionalAction,
        help="let pods reach what this machine reaches; until `down`: ip_forward and iptables rules",
    )
    bring.add_argument(
        "--audit-log",
        action=argparse.BooleanOptionalAction,
        help="write every request to the API server to STATE/logs/audit.log",
    )
    bring.add_argument(
        "--gang-scheduling",
        action=argparse.BooleanOptionalAction,
        help="let the scheduler place gangs: PodGroups, which are alpha and off by default",
    )
    bring.add_argument(
        "--with",
        dest="extras",
        action="append",
        default=[],
        choices=list(extras.INSTALLERS),
        help="install this, too; may be repeated, and stays until `down`",
    )

    command("down", _down, "Take a cluster away: processes, mounts, network, control groups, files.", where)

    show = command(
        "status", _status, "How the cluster is.\nExits 1 when not healthy, 3 when there is none.", where
    )
    show.add_argument("-o", "--output", choices=["text", "json"], default="text")

    command("env", _env, 'Lines for the shell: eval "$(python3 hack/cluster env)".', where)

    bring_in = command(
        "load",
        _load,
        "Bring images of OCI archives into the nodes.\n"
        "Layers that a node has are not sent again; an image that it has costs nothing.\n"
        "Make an archive with: buildah push IMAGE oci-archive:FILE:localhost/NAME:TAG",
        where,
        cache,
    )
    bring_in.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    bring_in.add_argument("--node", action="append", help="only this node; may be repeated (default: all)")
    bring_in.add_argument("--image", help="name for the image, instead of the one in the archive")

    for program in PASSED_ON:
        text = f"Run {program} on the cluster: options as of `env`, then {program}'s own words."
        command(program, _exec, text, where, cache).set_defaults(program=program)

    one = command(
        "node",
        _node,
        "Break and mend one node.\n"
        "  kill   end all its processes at once: kubelet, containerd, containers. Their sockets are closed\n"
        "  start  bring it back, as after a reboot\n"
        "  cut    pull its network cable: packets vanish. Cut, then kill, is a power cut\n"
        "  heal   put the cable back\n"
        "  exec   run a command on it: node node-1 exec -- ctr images ls",
        where,
        cache,
    )
    one.add_argument("node")
    one.add_argument("action", choices=["kill", "start", "cut", "heal", "exec"])
    one.add_argument("arguments", nargs=argparse.REMAINDER)

    for action in ("cut", "heal"):
        made = command(action, _node, f"Short for: node NODE {action}.", where, cache)
        made.set_defaults(action=action, arguments=[])
        made.add_argument("node")

    cards = command(
        "gpu",
        _gpu,
        "Pretend GPUs on a node: capacity, and the labels of GPU feature discovery.\n"
        f"Products: {', '.join(gpus.PRODUCTS)}.\n"
        "A part of a name that only one has is enough (H200:8).\n"
        "Any other card: PRODUCT:COUNT:MEMORY_MIB:MAJOR.MINOR.",
        where,
    )
    cards.add_argument("node")
    cards.add_argument("gpus", metavar="PRODUCT:COUNT[:MEMORY_MIB:MAJOR.MINOR]|none")
    return top


def _paths(options: argparse.Namespace) -> Paths:
    return Paths.of(options.state, check_name(options.name))


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("namespaces and mounts need root: run this with sudo", exit_code=2)


def _running(options: argparse.Namespace) -> tuple[Paths, Cluster]:
    paths = _paths(options)
    return paths, paths.load_running()


def _build(options: argparse.Namespace) -> int:
    console = Console()
    build.build(options.cache, console, extras.with_needs(options.extras))
    return 0


def _up(options: argparse.Namespace) -> int:
    console = Console()
    _need_root()
    paths = _paths(options)
    wishes = starting.Wishes(
        name=paths.state.name,
        num_nodes=options.nodes,
        subnet=parse_subnet(options.subnet) if options.subnet else None,
        gpus=dict(gpus.parse_assignment(text) for text in options.gpu),
        has_egress=options.egress,
        has_audit_log=options.audit_log,
        has_gang_scheduling=options.gang_scheduling,
        extras=extras.with_needs(options.extras),
    )
    before = paths.load()
    programs = build.find_built(options.cache, [*(before.extras if before else ()), *wishes.extras])
    is_new = before is None
    try:
        starting.up(wishes, paths, programs, console)
    except KeyboardInterrupt:
        if is_new:
            complain("interrupted: taking away what this `up` made")
            down(paths, Console())
        raise
    console.step("up")
    print(f"export KUBECONFIG={paths.kubeconfig}")
    return 0


def _down(options: argparse.Namespace) -> int:
    console = Console()
    _need_root()
    down(_paths(options), console)
    return 0


def _status(options: argparse.Namespace) -> int:
    _need_root()
    paths, cluster = _running(options)
    seen = status.look(cluster, paths)
    print(json.dumps(seen.to_json(), indent=2) if options.output == "json" else "\n".join(seen.lines()))
    return 0 if seen.is_healthy() else 1


def _env(options: argparse.Namespace) -> int:
    paths, _ = _running(options)
    print(f"export KUBECONFIG={paths.kubeconfig}")
    print(f'export PATH="{paths.bin}:$PATH"')
    return 0


def _load(options: argparse.Namespace) -> int:
    console = Console()
    _need_root()
    paths, cluster = _running(options)
    targets = [cluster.node(name) for name in options.node] if options.node else cluster.nodes
    images.load(options.archives, targets, paths, build.find_built(options.cache), console, options.image)
    console.step(f"{', '.join(node.name for node in targets)} up to date")
    return 0


def _exec(options: argparse.Namespace) -> int:
    paths, _ = _running(options)
    program = build.find_built(options.cache).path(options.program)
    os.execve(
        program, [options.program, *options.theirs], {**os.environ, "KUBECONFIG": str(paths.kubeconfig)}
    )


def _node(options: argparse.Namespace) -> int:
    console = Console()
    _need_root()
    paths, cluster = _running(options)
    node = cluster.node(options.node)
    if options.action == "kill":
        console.step(f"{node.name}: {nodes.kill(node)} processes killed")
    elif options.action == "start":
        starting.start_node(cluster, node, paths, build.find_built(options.cache), console)
    elif options.action == "cut":
        network.cut(node, paths)
        console.step(f"{node.name}: cable pulled")
    elif options.action == "heal":
        network.heal(node, paths)
        console.step(f"{node.name}: cable in place")
    else:
        words = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        if not words:
            raise ClusterError(
                "exec: give a command, such as `node node-1 exec -- ctr images ls`", exit_code=2
            )
        command, environment = nodes.command(node, paths, build.find_built(options.cache), words)
        sys.stdout.flush()
        os.execvpe(command[0], command, {**os.environ, **environment})
    return 0


def _gpu(options: argparse.Namespace) -> int:
    console = Console()
    _need_root()
    paths, cluster = _running(options)
    node = cluster.node(options.node)
    wanted = None if options.gpus == "none" else gpus.parse(options.gpus)
    others = {name: cards for name, cards in cluster.gpus.items() if name != node.name}
    cluster = replace(cluster, gpus={**others, node.name: wanted} if wanted else others)
    paths.save(cluster)
    starting.offer_gpus(cluster, node, Api.of(cluster, paths))
    console.step(f"{node.name}: {wanted or 'no GPUs'}")
    return 0

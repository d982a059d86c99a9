"""The nodes that gangs were granted, until a read of the nodes shows their pods there.

Jobs that wait for room look at one and the same read. Without this, all of them would take the nodes that are
free in it, and most of what they make would be half-placed and taken back. It is in memory only: what was
granted stands in the status of jobs, where an operator that has just started finds it.

A gang has its nodes within seconds. If it has not, no node takes it for a reason that is not seen here, and
what it was granted is free for others again.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, NamedTuple

from phitune_operator import names, refusals
from phitune_operator.accepted_once import as_accepted
from phitune_operator.api import FineTuneJobSpec
from phitune_operator.attempts import CREATING
from phitune_operator.cluster_settings import profile_for
from phitune_operator.defaults import cpu_request
from phitune_operator.fields import quantity
from phitune_operator.kinds import Key, uid_of
from phitune_operator.nodes import Node, hosts
from phitune_operator.observed import Observed, Settings
from phitune_operator.policies.free import leaves_it_to_others, wish_of
from phitune_operator.policies.running import TRAINING
from phitune_operator.status import condition_of, is_true
from phitune_operator.store import Store
from phitune_operator.usage import Usage
from phitune_operator.wish import Wish, can_take

SEEKING: Final = frozenset({CREATING, "Starting", "Unschedulable"})
"""Reasons of the condition Running of a gang whose pods may have no nodes yet."""
ALIVE: Final = SEEKING | {"Loading", TRAINING, "Unheard", "Ending"}
"""Reasons of one that is there."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What the pods of one gang ask for, each of which has a node of its own if it has GPUs."""

    gang: tuple[str, int]
    """Uid of the job, and the attempt."""
    wish: Wish
    resource: str
    selectors: tuple[str, ...]
    cpu: Decimal
    memory: int
    """Bytes."""
    devices: Mapping[str, int]
    """What the network profile asks for beside GPUs, by resource."""
    until: float
    """When it lapses, in seconds of the monotonic clock: a read that began later needs no help."""

    def requests(self, num_pods: int) -> dict[str, Decimal]:
        """Of so many pods."""
        each = {
            "cpu": self.cpu,
            "memory": Decimal(self.memory),
            self.resource: Decimal(self.wish.gpus_per_node),
            **{name: Decimal(number) for name, number in self.devices.items()},
        }
        return {name: number * num_pods for name, number in each.items()}


class Granted:
    """The grants of all jobs. A look asks `held` and tells `note` without a pause in between."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._grants: dict[Key, Grant] | None = None
        """None: what an operator before this one has granted is not known yet."""
        self._read: tuple[Node, ...] | None = None
        """The read that `_held` was made from."""
        self._held: tuple[Node, ...] = ()
        self._counted: set[tuple[str, int]] = set()
        """The gangs that `_held` counts and the read does not show."""

    def held(self, seen: Observed) -> Observed:
        """Return the same, with what other gangs were granted counted as held."""
        if seen.nodes is None:
            return seen
        grants = self._known()
        if seen.key in grants:
            others = (grant for key, grant in grants.items() if key != seen.key)
            return replace(seen, nodes=_with(seen.nodes, others, at=seen.nodes_at).nodes)
        if self._read is not seen.nodes:
            self._read = seen.nodes
            self._held, self._counted = _with(seen.nodes, grants.values(), at=seen.nodes_at)
        return replace(seen, nodes=self._held)

    def note(self, seen: Observed, status: dict[str, Any]) -> None:
        """Take in what a look has decided: the status that the job is to have."""
        if seen.job is not None:
            self._note(seen.key, seen.uid, seen.spec, status)

    def forget(self, key: Key) -> None:
        """Drop what was granted to a job that is gone."""
        grant = self._grants.pop(key, None) if self._grants is not None else None
        if grant is not None and grant.gang in self._counted:
            self._read = None

    def _known(self) -> dict[Key, Grant]:
        if self._grants is None:
            self._grants = {}
            for key in self._store.unfinished():
                self._take_over(key)
        return self._grants

    def _take_over(self, key: Key) -> None:
        job = self._store.job(key)
        status: dict[str, Any] = (job or {}).get("status") or {}
        if job is None or not _is_alive(status):
            return
        begun = as_accepted({**job, "metadata": {"name": key.name, "namespace": key.namespace}})
        if begun is not None:
            self._note(key, uid_of(job), begun.spec, status)

    def _note(self, key: Key, uid: str, spec: FineTuneJobSpec, status: dict[str, Any]) -> None:
        grants, gang = self._known(), (uid, int(status.get("attempt") or 0))
        known = grants.get(key)
        if not _is_alive(status) or leaves_it_to_others(spec):
            self.forget(key)
        elif condition_of(status, names.CONDITION_RUNNING).get("reason") in SEEKING and (
            known is None or known.gang != gang
        ):
            grants[key] = self._grant(gang, spec, status["placement"])
            if self._read is not None:
                self._held, counted = _with(self._held, [grants[key]], at=grants[key].until - 1)
                self._counted |= counted

    def _grant(self, gang: tuple[str, int], spec: FineTuneJobSpec, placement: dict[str, Any]) -> Grant:
        limit = self._settings.pool_wait if placement.get("pool") else self._settings.placement_grace
        profile = profile_for(str(placement.get("product", "")), self._settings.network_profiles)
        return Grant(
            gang=gang,
            wish=wish_of(spec),
            resource=str(placement.get("resource", names.GPU_RESOURCE)),
            selectors=tuple(placement.get("nodeLabels") or ()),
            cpu=quantity(spec.resources.cpu or placement.get("cpu") or cpu_request(spec)),
            memory=int(quantity(spec.resources.memory or placement.get("memory") or 0)),
            devices=profile.resources if profile is not None else {},
            until=self._clock() + limit.total_seconds(),
        )


def _is_alive(status: dict[str, Any]) -> bool:
    """Whether the newest attempt has a gang, or is about to get it, and nobody refuses its pods."""
    return (
        int(status.get("attempt") or 0) > 0
        and condition_of(status, names.CONDITION_RUNNING).get("reason") in ALIVE
        and condition_of(status, names.CONDITION_ACCEPTED).get("reason") not in refusals.REASONS
        and not is_true(status, names.CONDITION_RESTARTING)
    )


class _Held(NamedTuple):
    nodes: tuple[Node, ...]
    counted: set[tuple[str, int]]
    """The gangs that were not shown yet, or not whole."""


def _with(nodes: tuple[Node, ...], grants: Iterable[Grant], *, at: float) -> _Held:
    """The nodes, of a read that began then, as they will be when the pods of these gangs have theirs."""
    found, counted = list(nodes), set[tuple[str, int]]()
    shown: dict[tuple[str, int], int] = {}
    for usage in {node.name: node.usage for node in nodes if node.usage is not None}.values():
        for gang, count in usage.gangs.items():
            shown[gang] = shown.get(gang, 0) + count
    for grant in grants:
        num_pods = grant.wish.num_nodes - shown.get(grant.gang, 0)
        if at < grant.until and num_pods > 0:
            _place(found, grant, num_pods)
            counted.add(grant.gang)
    return _Held(tuple(found), counted)


def _place(nodes: list[Node], grant: Grant, num_pods: int) -> None:
    """Put so many pods on the first nodes that have room, as far as there are any."""
    gpus, more = grant.wish.gpus_per_node, dict[str, Usage]()
    for node in nodes if gpus else hosts(nodes):
        if num_pods <= 0:
            break
        usage = node.usage or Usage()
        room = node.num_free(gpus=gpus, cpu=grant.cpu, memory=grant.memory, devices=grant.devices)
        if (
            room == 0
            or (gpus and usage.gangs[grant.gang])
            or not can_take(node, grant.wish, resource=grant.resource, selectors=grant.selectors)
        ):
            continue
        placed = min(room, num_pods)
        num_pods -= placed
        more[node.name] = usage.plus(grant.requests(placed), num_pods=placed)
    if more:
        # A node whose GPUs are of several kinds is there once for each.
        nodes[:] = [replace(one, usage=more[one.name]) if one.name in more else one for one in nodes]

"""What the watches have told us: the newest version of each job and child, found by job.

The store is a cache. It is filled by one LIST a kind at the start, then by watch events, by the answers to
our own writes (so that a pass sees what the pass before it did), and by a slow resync that heals what a watch
missed.

Most of what it holds is not looked at for days: jobs that have ended, and their children. So it keeps objects
packed, as compressed JSON: a tenth of the memory, and nothing that the garbage collector has to walk through.
"""

import json
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import NamedTuple

from phitune_operator.kinds import FINETUNEJOB, POD, Key, Kind, Object, labels_of, name_of, uid_of
from phitune_operator.names import LABEL_JOB, is_rank_zero
from phitune_operator.prepared import Prepared

REMEMBERED_DELETIONS = 10_000
"""Uids kept after a deletion, so that a late answer of a LIST does not bring the object back."""
NUM_UNPACKED = 1_000
"""Objects kept unpacked as well: those looked at last, which are looked at next."""
FASTEST = 1
"""Of zlib's levels; the slowest one saves another tenth."""
NO_PHASE = "Pending"
"""Of a job that nobody has looked at yet."""
ENDED = frozenset({"Succeeded", "Failed"})


class _Held(NamedTuple):
    """An object, and what is asked of it without a look inside."""

    uid: str
    version: int
    packed: bytes


class Store:
    """Newest known version of every watched object."""

    def __init__(self) -> None:
        self.prepared = Prepared()
        self._objects: defaultdict[Kind, dict[tuple[str, str], _Held]] = defaultdict(dict)
        self._children: defaultdict[Key, set[tuple[Kind, str]]] = defaultdict(set)
        self._phases: dict[Key, str] = {}
        self._num_in: Counter[str] = Counter()
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._farewells: dict[Key, bytes] = {}

    def absorb(self, kind: Kind, obj: Object, *, deleted: bool = False) -> Key | None:
        """Take in an object as the API server sent it.

        Returns the key of the job that it concerns, or None if the store knew that (or something newer)
        already, or if the object belongs to no job.
        """
        key = key_of(kind, obj)
        if key is None:
            return None
        name, uid = name_of(obj), uid_of(obj)
        known = self._objects[kind].get((key.namespace, name))
        if deleted:
            self._keep_farewell(kind, key, obj)
            self._remember_deletion(uid)
            if known is None or known.uid != uid:
                return None
            self._remove(kind, key, name)
            return key
        # Versions count on from one object of a name to the next: an older one is old news of either.
        is_known = known is not None and _version(obj) <= known.version
        if is_known or uid in self._deleted:
            return None
        self._objects[kind][key.namespace, name] = _Held(uid, _version(obj), _packed(obj))
        if kind == FINETUNEJOB:
            self._set_phase(key, str((obj.get("status") or {}).get("phase", NO_PHASE)))
            self.prepared.note(key, obj)
        else:
            self._children[key].add((kind, name))
        return key

    def uids(self, kind: Kind) -> set[str]:
        """Return the uid of every known object of a kind."""
        return {held.uid for held in self._objects[kind].values()}

    def lacking(self, kind: Kind, listed: Iterable[Object], *, known_before: Collection[str]) -> set[Key]:
        """Return the keys of the jobs whose picture a LIST of metadata shows to be old.

        `known_before` are the uids known when the LIST began: what came later is not missing from it.
        """
        found: set[str] = set()
        keys: set[Key] = set()
        for obj in listed:
            key, uid = key_of(kind, obj), uid_of(obj)
            found.add(uid)
            if key is None or uid in self._deleted:
                continue
            known = self._objects[kind].get((key.namespace, name_of(obj)))
            if known is None or (known.uid == uid and known.version < _version(obj)):
                keys.add(key)
        return keys | {key for key, _ in self._missing(kind, set(known_before) - found)}

    def replace(self, kind: Kind, listed: Iterable[Object], *, known_before: Collection[str]) -> set[Key]:
        """Make the store agree with a LIST of everything that it watches of a kind.

        `known_before` are the uids known when the LIST began: what came later is not missing from it. Returns
        the keys of the jobs whose picture changed: what the watch had not told.
        """
        found: set[str] = set()
        changed: set[Key] = set()
        for obj in listed:
            found.add(uid_of(obj))
            if (key := self.absorb(kind, obj)) is not None:
                changed.add(key)
        return changed | self.drop(kind, set(known_before) - found)

    def drop(self, kind: Kind, uids: Collection[str]) -> set[Key]:
        """Forget objects that are not there any more; returns the keys of their jobs."""
        changed: set[Key] = set()
        for key, held in self._missing(kind, uids):
            if self.absorb(kind, _unpacked(held.packed), deleted=True) is not None:
                changed.add(key)
        return changed

    def job(self, key: Key) -> Object | None:
        """Return the FineTuneJob, or None if there is none."""
        held = self._objects[FINETUNEJOB].get((key.namespace, key.name))
        return None if held is None else _unpacked(held.packed)

    def children(self, key: Key, kind: Kind) -> list[Object]:
        """Return the job's children of one kind, sorted by name."""
        mine = sorted(name for of_kind, name in self._children.get(key, ()) if of_kind == kind)
        return [_unpacked(self._objects[kind][key.namespace, name].packed) for name in mine]

    def farewell(self, key: Key) -> Object | None:
        """Return the rank 0 pod that was deleted last, as it was at its end; None if none was."""
        packed = self._farewells.get(key)
        return None if packed is None else _unpacked(packed)

    def jobs(self) -> list[Key]:
        """Return every job there is."""
        return list(self._phases)

    def unfinished(self) -> list[Key]:
        """Return every job that has not come to its end."""
        return [key for key, phase in self._phases.items() if phase not in ENDED]

    def ended(self) -> list[Key]:
        """Return every job that has come to its end, good or bad."""
        return [key for key, phase in self._phases.items() if phase in ENDED]

    def count(self, phase: str) -> int:
        """Return how many jobs are in a phase."""
        return self._num_in[phase]

    def _missing(self, kind: Kind, uids: Collection[str]) -> list[tuple[Key, _Held]]:
        """What is held of these uids, with the keys of the jobs."""
        if not uids:
            return []
        held = [held for held in self._objects[kind].values() if held.uid in uids]
        return [(key, one) for one in held if (key := key_of(kind, _unpacked(one.packed))) is not None]

    def _remove(self, kind: Kind, key: Key, name: str) -> None:
        del self._objects[kind][key.namespace, name]
        if kind == FINETUNEJOB:
            self._set_phase(key, None)
            self.prepared.forget(key)
        else:
            self._children[key].discard((kind, name))
            if not self._children[key]:
                del self._children[key]

    def _set_phase(self, key: Key, phase: str | None) -> None:
        if (before := self._phases.pop(key, None)) is not None:
            self._num_in[before] -= 1
        if phase is not None:
            self._phases[key] = phase
            self._num_in[phase] += 1

    def _keep_farewell(self, kind: Kind, key: Key, obj: Object) -> None:
        """A pod often ends and goes within one breath of the watch: its last words come with its deletion."""
        if kind == FINETUNEJOB:
            self._farewells.pop(key, None)
        elif kind == POD and is_rank_zero(labels_of(obj)) and key in self._phases:
            self._farewells[key] = _packed(obj)

    def _remember_deletion(self, uid: str) -> None:
        self._deleted[uid] = None
        if len(self._deleted) > REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)


def key_of(kind: Kind, obj: Object) -> Key | None:
    """Return the key of the job that an object is, or belongs to by its label."""
    namespace = str(obj["metadata"].get("namespace", ""))
    if kind == FINETUNEJOB:
        return Key(namespace, name_of(obj))
    job = labels_of(obj).get(LABEL_JOB)
    return Key(namespace, job) if job else None


def _version(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)


def _packed(obj: Object) -> bytes:
    """Without managedFields, which are half of an object and of no use to us."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    text = json.dumps({**obj, "metadata": metadata}, separators=(",", ":"))
    return zlib.compress(text.encode(), FASTEST)


@lru_cache(NUM_UNPACKED)
def _unpacked(packed: bytes) -> Object:
    obj: Object = json.loads(zlib.decompress(packed))
    return obj

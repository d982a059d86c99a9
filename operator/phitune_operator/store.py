"""What the watches have told us: the newest version of each job and child, found by job.

The store is a cache. It is filled by one LIST a kind at the start, then by watch events, by the answers to
our own writes (so that a pass sees what the pass before it did), and by a slow resync that heals what a watch
missed.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable

from phitune_operator.kinds import FINETUNEJOB, POD, Key, Kind, Object, labels_of, name_of, uid_of
from phitune_operator.names import LABEL_JOB, LABEL_RANK

REMEMBERED_DELETIONS = 10_000
"""Uids kept after a deletion, so that a late answer of a LIST does not bring the object back."""


class Store:
    """Newest known version of every watched object."""

    def __init__(self) -> None:
        self._objects: defaultdict[Kind, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._children: defaultdict[Key, set[tuple[Kind, str]]] = defaultdict(set)
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._farewells: dict[Key, Object] = {}

    def absorb(self, kind: Kind, obj: Object, *, deleted: bool = False) -> Key | None:
        """Take in an object as the API server sent it.

        Returns the key of the job that it concerns, or None if the store knew that (or something newer)
        already, or if the object belongs to no job.
        """
        key = key_of(kind, obj)
        if key is None:
            return None
        place = (key.namespace, name_of(obj))
        known = self._objects[kind].get(place)
        if deleted:
            self._keep_farewell(kind, key, obj)
            self._remember_deletion(uid_of(obj))
            if known is None or uid_of(known) != uid_of(obj):
                return None
            self._remove(kind, key, name_of(obj))
            return key
        if uid_of(obj) in self._deleted or (known is not None and not _is_newer(obj, known)):
            return None
        self._objects[kind][place] = _without_noise(obj)
        if kind != FINETUNEJOB:
            self._children[key].add((kind, name_of(obj)))
        return key

    def uids(self, kind: Kind) -> set[str]:
        """Return the uid of every known object of a kind."""
        return {uid_of(obj) for obj in self._objects[kind].values()}

    def replace(self, kind: Kind, listed: Iterable[Object], *, known_before: set[str]) -> set[Key]:
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
        ghosts = [obj for obj in self._objects[kind].values() if uid_of(obj) in known_before - found]
        for obj in ghosts:
            if (key := self.absorb(kind, obj, deleted=True)) is not None:
                changed.add(key)
        return changed

    def job(self, key: Key) -> Object | None:
        """Return the FineTuneJob, or None if there is none."""
        return self._objects[FINETUNEJOB].get((key.namespace, key.name))

    def children(self, key: Key, kind: Kind) -> list[Object]:
        """Return the job's children of one kind, sorted by name."""
        mine = sorted(name for of_kind, name in self._children.get(key, ()) if of_kind == kind)
        return [self._objects[kind][key.namespace, name] for name in mine]

    def farewell(self, key: Key) -> Object | None:
        """Return the rank 0 pod that was deleted last, as it was at its end; None if none was."""
        return self._farewells.get(key)

    def jobs(self) -> list[Key]:
        """Return every job there is."""
        return [Key(*place) for place in self._objects[FINETUNEJOB]]

    def _remove(self, kind: Kind, key: Key, name: str) -> None:
        del self._objects[kind][key.namespace, name]
        if kind != FINETUNEJOB:
            self._children[key].discard((kind, name))
            if not self._children[key]:
                del self._children[key]

    def _keep_farewell(self, kind: Kind, key: Key, obj: Object) -> None:
        """A pod often ends and goes within one breath of the watch: its last words come with its deletion."""
        if kind == FINETUNEJOB:
            self._farewells.pop(key, None)
        elif kind == POD and labels_of(obj).get(LABEL_RANK) == "0" and self.job(key) is not None:
            self._farewells[key] = _without_noise(obj)

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


def _is_newer(obj: Object, known: Object) -> bool:
    return uid_of(obj) != uid_of(known) or _version(obj) > _version(known)


def _version(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)


def _without_noise(obj: Object) -> Object:
    """Drop managedFields: half of an object's size, and of no use to us."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return {**obj, "metadata": metadata}

"""What a volume may hold after a crash: of what was not synced, any part may be gone.

A volume is kept here as the system keeps it: files have contents, folders have names, and each of the two is
only as good as the last fsync of it. A name that was made or moved lasts once its folder is synced, a file's
bytes once the file is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from harness.file_operations import Operation

Tree = dict[str, bytes | None]
"""What a folder holds, by relative path; None: a folder."""


@dataclass(eq=False)
class _File:
    content: bytes = b""
    synced: bytes = b""

    def after_a_crash(self, share: float) -> bytes:
        """The synced bytes, and this share of those added since."""
        if not self.content.startswith(self.synced):
            return self.content if share else self.synced
        return self.content[: len(self.synced) + int(share * (len(self.content) - len(self.synced)))]


@dataclass(eq=False)
class _Folder:
    synced: dict[str, _File | _Folder] = field(default_factory=dict)
    changes: list[dict[str, _File | _Folder | None]] = field(default_factory=list)
    """Since the last sync: names and what they stand for from then on. A rename changes two at once."""

    def names(self, lost: frozenset[tuple[int, int]] = frozenset()) -> dict[str, _File | _Folder]:
        """What it holds, without the changes (this folder's id, number) that are lost."""
        now: dict[str, _File | _Folder | None] = dict(self.synced)
        for number, change in enumerate(self.changes):
            if (id(self), number) not in lost:
                now.update(change)
        return {name: one for name, one in now.items() if one is not None}


class Volume:
    """A volume as a program sees it, and as it may be found after a crash."""

    def __init__(self) -> None:
        self._root = _Folder()

    def apply(self, operation: Operation) -> None:
        """Do to it what a program did."""
        path = PurePath(operation.path)
        if operation.kind == "fsync":
            one = self._find(path)
            if isinstance(one, _File):
                one.synced = one.content
            else:
                one.synced, one.changes = one.names(), []
        elif operation.kind == "write":
            self._file(path).content += operation.content
        elif operation.kind == "truncate":
            self._file(path).content = b""
        elif operation.kind in ("mkdir", "create"):
            made = _Folder() if operation.kind == "mkdir" else _File()
            self._folder(path.parent).changes.append({path.name: made})
        elif operation.kind in ("unlink", "rmdir"):
            self._folder(path.parent).changes.append({path.name: None})
        elif operation.kind == "rename":
            self._rename(path, PurePath(operation.to))

    def now(self) -> Tree:
        """What it holds while nothing has crashed."""
        return _tree(self._root, frozenset(), 1.0)

    def after_a_crash(self) -> Iterator[Tree]:
        """What it may hold after a crash at this point, the same tree perhaps several times.

        The program alone died; or the machine did, and of what was not synced, everything is gone, or only
        the bytes, or half of the bytes, or the bytes and any one of the names.
        """
        changes = list(_unsynced(self._root))
        yield self.now()
        yield _tree(self._root, frozenset(changes), 0.0)
        yield _tree(self._root, frozenset(), 0.0)
        yield _tree(self._root, frozenset(), 0.5)
        for change in changes:
            yield _tree(self._root, frozenset({change}), 0.0)
            yield _tree(self._root, frozenset({change}), 1.0)

    def _rename(self, source: PurePath, target: PurePath) -> None:
        moved = self._find(source)
        if source.parent == target.parent:
            self._folder(source.parent).changes.append({source.name: None, target.name: moved})
        else:
            self._folder(source.parent).changes.append({source.name: None})
            self._folder(target.parent).changes.append({target.name: moved})

    def _find(self, path: PurePath) -> _File | _Folder:
        one: _File | _Folder = self._root
        for name in path.parts:
            assert isinstance(one, _Folder)
            one = one.names()[name]
        return one

    def _folder(self, path: PurePath) -> _Folder:
        one = self._find(path)
        assert isinstance(one, _Folder)
        return one

    def _file(self, path: PurePath) -> _File:
        one = self._find(path)
        assert isinstance(one, _File)
        return one


@dataclass(frozen=True)
class Crash:
    """A state that a volume may be found in."""

    tree: Tree
    said: list[str]
    """What users had been told by then, at the latest operation that may leave this state."""
    after: int
    """The number of that operation."""


def crashes(operations: Sequence[Operation]) -> list[Crash]:
    """Every state that a crash between two of these operations, or after the last, may leave; each once."""
    volume, said = Volume(), []
    found: dict[str, Crash] = {}
    for number, operation in enumerate(operations):
        if operation.kind == "said":
            said = [*said, operation.content.decode()]
        else:
            volume.apply(operation)
        for tree in volume.after_a_crash():
            found[_digest(tree)] = Crash(tree, said, number)
    return list(found.values())


def lay_out(tree: Tree, folder: Path) -> None:
    """Make an empty or missing folder hold a tree."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def read_tree(folder: Path) -> Tree:
    """What a folder holds."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def _unsynced(folder: _Folder) -> Iterator[tuple[int, int]]:
    yield from ((id(folder), number) for number in range(len(folder.changes)))
    for one in folder.names().values():
        if isinstance(one, _Folder):
            yield from _unsynced(one)


def _tree(folder: _Folder, lost: frozenset[tuple[int, int]], share: float, path: str = "") -> Tree:
    tree: Tree = {}
    for name, one in folder.names(lost).items():
        if isinstance(one, _File):
            tree[path + name] = one.after_a_crash(share)
        else:
            tree[path + name] = None
            tree.update(_tree(one, lost, share, f"{path}{name}/"))
    return tree


def _digest(tree: Tree) -> str:
    digest = hashlib.sha256()
    for path, content in sorted(tree.items()):
        digest.update(repr((path, content)).encode())
    return digest.hexdigest()

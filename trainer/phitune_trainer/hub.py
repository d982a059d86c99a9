"""Files of the hub on the volume: once per volume and revision, whole or not at all, shared by all jobs.

Called by prepare alone; ranks find the files on the volume and never ask the network. What a folder was
fetched from stands in a record in it, a JSON file. While files come they lie in a working folder beside,
which the next try takes up where this one ended, however that was. One process fetches at a time, on whatever
node; others wait for it and then find all there.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

from phitune_trainer.errors import UserError
from phitune_trainer.folders import is_filled
from phitune_trainer.hub_client import Hub, Listing, Repository
from phitune_trainer.hub_connection import HubUnavailable
from phitune_trainer.hub_record import RECORD, Record, file_name, record_name
from phitune_trainer.lease import Lease, LeaseLost, sole
from phitune_trainer.partial_file import HubFile, PartialFile
from phitune_trainer.run_layout import sync_folder, write_atomically
from phitune_trainer.transfer import SECONDS_BETWEEN_LINES, Say, Transfer, size

__all__ = ["Hub", "HubUnavailable", "Repository", "Wanted", "check", "fetch"]

Connect = Callable[[], Hub]

SPARE_BYTES: Final = 256 * 2**20
"""Room that must be left on the volume beside what is fetched."""
_TRIES: Final = 2
"""Of a file whose checksum is wrong: it may have been hurt on its way."""
_PARTIAL: Final = ".partial"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is being fetched."""

    commit: str
    files: tuple[HubFile, ...]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The plan; an empty one if there is none that can be understood."""
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(commit=found["commit"], files=tuple(HubFile(**file) for file in found["files"]))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return cls(commit="", files=())


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Files of a repository, and the folder that they shall lie in under their own names."""

    repository: Repository
    patterns: tuple[str, ...]
    into: Path


def check(wanted: Wanted, connect: Connect, say: Say) -> None:
    """Ask for what is not there yet, without fetching it. Raises what `fetch` would raise at once."""
    fetching = _Fetch(wanted, say)
    if not fetching.is_by_hand() and not fetching.is_done():
        with connect() as hub:
            fetching.look_up(hub)


def fetch(wanted: Wanted, connect: Connect, say: Say) -> None:
    """Make sure that the files are there.

    `connect` is called only if something has to be fetched. A folder that somebody filled by hand, without a
    record, is left alone. Raises UserError, or HubUnavailable for what a later try may mend.
    """
    fetching = _Fetch(wanted, say)
    if fetching.is_by_hand():
        say(f"{wanted.into} was not fetched from the hub, and is used as it is")
        return
    while not fetching.is_done():
        with sole(fetching.lease, fetching.is_done, fetching.say_waiting) as lease:
            if lease is None:
                break
            try:
                with connect() as hub:
                    fetching.run(hub, lease)
            except LeaseLost:
                say("another pod has taken over; waiting for it")
    say(fetching.what_is_there())


class _Fetch:
    """One repository on its way into a folder."""

    def __init__(self, wanted: Wanted, say: Say) -> None:
        repository, into = wanted.repository, wanted.into
        name = file_name(repository.kind, repository.name)
        self.lease = into.with_name(f".{into.name}.{name}.lease")
        self._repository = repository
        self._patterns = wanted.patterns
        self._into = into
        self._say = say
        self._record = record_name(repository.kind, repository.name)
        self._work = into.with_name(f".{into.name}.{name}.fetching")
        self._files = self._work / "files"
        self._plan = self._work / "plan.json"
        self._said_at = time.monotonic()

    def is_by_hand(self) -> bool:
        return is_filled(self._into) and not any(self._into.glob(f"{RECORD}*"))

    def is_done(self) -> bool:
        record = Record.read(self._into / self._record)
        return record is not None and record.covers(self._patterns, self._into)

    def what_is_there(self) -> str:
        record = Record.read(self._into / self._record)
        assert record is not None
        return (
            f"{self._repository.name}, revision {self._repository.revision}, is on the volume: commit "
            f"{record.commit[:12]}, fetched {record.fetched_at}, {size(sum(record.files.values()))}"
        )

    def say_waiting(self, host: str) -> None:
        if time.monotonic() - self._said_at < SECONDS_BETWEEN_LINES:
            return
        self._said_at = time.monotonic()
        total = sum(file.size for file in Plan.read(self._plan).files)
        far = f": {size(self._num_bytes_there())} of {size(total)}" if total else ""
        self._say(f"waiting while {host} fetches {self._repository.name}{far}")

    def look_up(self, hub: Hub) -> Listing:
        """What the hub has of it. UserError where that is not all that is needed."""
        former = Record.read(self._into / self._record)
        # What is added to a folder later comes from the same commit as what it holds.
        repository = self._repository if former is None else self._at(former.commit)
        listing = hub.look_up(repository, lambda name: _matches(name, self._patterns))
        self._refuse_if_incomplete(hub, listing)
        return listing

    def run(self, hub: Hub, lease: Lease) -> None:
        """Fetch what is missing and give it its name. Raises LeaseLost where another process took over."""
        former = Record.read(self._into / self._record)
        listing = self.look_up(hub)
        repository = self._at(listing.commit)
        missing = [file for file in listing.files if former is None or not former.has(file.path, self._into)]
        lease.check()
        self._forget_all_but(Plan(commit=listing.commit, files=tuple(missing)))
        present = self._num_bytes_there()
        total = sum(file.size for file in missing)
        self._check_room(total - present)
        self._say(
            f"fetching {repository.name}, revision {self._repository.revision}, commit "
            f"{listing.commit[:12]}: {len(missing)} files, {size(total)}"
            + (f", {size(present)} are there" if present else "")
        )
        if unknown := sum(not file.has_checksum for file in missing):
            self._say(
                f"{hub.endpoint} tells no checksums of {unknown} of the files; only their sizes are checked"
            )
        transfer = Transfer(repository.name, total, present, self._say)
        for file in missing:
            self._fetch_file(hub, repository, file, lease, transfer.add)
        lease.check()
        self._publish(listing.commit, missing, former)

    def _at(self, commit: str) -> Repository:
        return Repository(**{**asdict(self._repository), "revision": commit})

    def _refuse_if_incomplete(self, hub: Hub, listing: Listing) -> None:
        page = self._repository.page(hub.endpoint)
        names = [file.path for file in listing.files]
        needed = ("*.safetensors", "config.json") if self._repository.kind == "model" else self._patterns
        missing = [pattern for pattern in needed if not any(_matches(name, [pattern]) for name in names)]
        if missing:
            why = (
                "; weights in other formats can hold code and are never read"
                if self._repository.kind == "model" and "*.safetensors" in missing
                else ""
            )
            what = f"{self._repository.kind} {self._repository.name}, revision {self._repository.revision},"
            raise UserError(f"{what} has no file {' and none '.join(missing)}{why}; see {page}")

    def _num_bytes_there(self) -> int:
        """Bytes in the working folder, of whole files and partial ones."""
        there = 0
        for path in self._files.rglob("*"):
            with suppress(FileNotFoundError):  # renamed just now by the process that fetches
                there += path.stat().st_size if path.is_file() else 0
        return there

    def _forget_all_but(self, plan: "Plan") -> None:
        """Write down what is wanted, and drop what an earlier try left of anything else, or of its past."""
        former = Plan.read(self._plan)
        same = {*former.files} & {
            file for file in plan.files if file.has_checksum or former.commit == plan.commit
        }
        kept = {file.path for file in same}
        for path in [path for path in self._files.rglob("*") if path.is_file()]:
            name = path.relative_to(self._files).as_posix().removesuffix(_PARTIAL)
            if name not in kept:
                path.unlink()
        self._files.mkdir(parents=True, exist_ok=True)
        write_atomically(self._plan, json.dumps(asdict(plan)))

    def _check_room(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self._work).free
        if num_bytes and free < num_bytes + SPARE_BYTES:
            raise UserError(
                f"{self._repository.name} needs {size(num_bytes)} more on the volume, and {size(free)} are "
                f"free ({self._into.parent}); enlarge the claim (storage.size), or remove what is not needed"
            )

    def _fetch_file(
        self, hub: Hub, repository: Repository, file: HubFile, lease: Lease, count: Callable[[int], None]
    ) -> None:
        target = self._files / file.path
        if target.is_file():  # whole: it has its name only since it was checked
            return
        aside = target.with_name(target.name + _PARTIAL)
        for tries_left in reversed(range(_TRIES)):
            with PartialFile(aside, file, lease.check) as partial:
                hub.fetch(repository, partial, count)
                problem = partial.finish(reread=lease.has_overtaken)
                if problem is None:
                    lease.check()
                    aside.rename(target)
                    return
                count(-partial.restart())
            self._say(f"{file.path}: {problem}" + ("; fetching it again" if tries_left else ""))
        raise UserError(
            f"{file.path} of {repository.name} came {_TRIES} times with another content than {hub.endpoint} "
            f"says: {problem}; a mirror or proxy on the way may hold a damaged copy"
        )

    def _publish(self, commit: str, fetched: Sequence[HubFile], former: Record | None) -> None:
        """Give the files their place: the whole folder at once, or each where others lie; the record last."""
        files = {file.path: file.size for file in fetched}
        record = Record(
            revision=self._repository.revision,
            commit=commit,
            fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
            patterns=tuple(sorted({*self._patterns, *(former.patterns if former else ())})),
            files={**(former.files if former else {}), **files},
        )
        text = json.dumps(asdict(record), indent=1)
        write_atomically(self._files / self._record, text)
        if not self._is_placed_whole():
            for name in files:
                place = self._into / name
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._files / name, place)
            write_atomically(self._into / self._record, text)
        sync_folder(self._into.parent)
        shutil.rmtree(self._work, ignore_errors=True)

    def _is_placed_whole(self) -> bool:
        """Rename the folder of the files, unless files of another repository were there first."""
        if is_filled(self._into):
            return False
        try:
            self._files.rename(self._into)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file of a repository is meant; a * does not reach into folders, and no name leads out."""
    parts = PurePosixPath(name).parts
    if "\\" in name or not parts or any(part.startswith((".", "/")) for part in parts):
        return False
    return any(
        len(parts) == len(wanted := PurePosixPath(pattern).parts) and all(map(fnmatchcase, parts, wanted))
        for pattern in patterns
    )

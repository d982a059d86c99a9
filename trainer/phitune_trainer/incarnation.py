"""The starts of a run, and which checkpoint each of them continues from.

Two starts of one run may be alive at once: a node that was cut off still computes while its replacement
already runs. So each start takes a number of its own, writes only in its own folder, and records the
checkpoint that it continues from before it trains. Readers follow these records back from the newest start.
What an older start writes after a newer one has branched off is therefore never read again.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from phitune_trainer.errors import Superseded, UserError
from phitune_trainer.run_layout import (
    IncarnationFolder,
    RunLayout,
    make_folders,
    steps_in,
    sync_folder,
    write_atomically,
)

_RETIRED = ".retired-"


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a start continues from."""

    incarnation: int
    step: int


def claim(layout: RunLayout) -> IncarnationFolder:
    """Take the next number; two starts at the same moment get two numbers."""
    make_folders(layout.incarnations)
    while True:
        folder = layout.incarnation(max(layout.incarnation_numbers(), default=0) + 1)
        try:
            folder.path.mkdir()
        except FileExistsError:
            continue
        sync_folder(layout.incarnations)
        return folder


def line_before(layout: RunLayout, number: int) -> Iterator[Origin]:
    """The checkpoints that start `number` may continue from, best first, following the records back."""
    older = [n for n in layout.incarnation_numbers() if n < number and layout.incarnation(n).start.is_file()]
    current, newest_step = max(older, default=None), None
    while current is not None:
        folder = layout.incarnation(current)
        for step in reversed(steps_in(folder.checkpoints)):
            if newest_step is None or step <= newest_step:
                yield Origin(current, step)
        origin = _origin(folder)
        current, newest_step = (origin.incarnation, origin.step) if origin else (None, None)


def choose_origin(
    layout: RunLayout, number: int, check: Callable[[Path], None], damaged: type[Exception]
) -> tuple[Origin | None, list[str]]:
    """The newest checkpoint of the line that `check` accepts, and what was wrong with those passed over."""
    return first_good(layout, line_before(layout, number), check, damaged)


def first_good(
    layout: RunLayout, origins: Iterable[Origin], check: Callable[[Path], None], damaged: type[Exception]
) -> tuple[Origin | None, list[str]]:
    """The first that `check` accepts, and what was wrong with those before it."""
    passed_over = []
    for origin in origins:
        try:
            check(layout.incarnation(origin.incarnation).checkpoint(origin.step))
        except damaged as problem:
            passed_over.append(str(problem))
        else:
            return origin, passed_over
    return None, passed_over


def record_start(folder: IncarnationFolder, origin: Origin | None, attempt: int) -> None:
    """Fix what this start continues from. Must come before it trains."""
    record = {
        "version": 1,
        "attempt": attempt,
        "host": socket.gethostname(),
        "startedAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "from": asdict(origin) if origin else None,
    }
    write_atomically(folder.start, json.dumps(record, indent=1))


def newer_start(layout: RunLayout, number: int) -> int | None:
    """The number of a start newer than `number`, if there is one."""
    newest = max(layout.incarnation_numbers(), default=number)
    return newest if newest > number else None


def refuse_if_superseded(layout: RunLayout, folder: IncarnationFolder) -> None:
    """Superseded where a start newer than that of `folder` exists."""
    if (newer := newer_start(layout, folder.number)) is not None:
        raise Superseded(f"incarnation {newer} of this run has started; this one, {folder.number}, ends here")


def remove_half_written(layout: RunLayout, folder: IncarnationFolder) -> None:
    """Remove what starts older than that of `folder` have half written: they are gone, or end at a save."""
    for number in layout.incarnation_numbers():
        if number < folder.number:
            for path in layout.incarnation(number).all_half_written():
                shutil.rmtree(path, ignore_errors=True)


def retire_old_checkpoints(
    layout: RunLayout, folder: IncarnationFolder, keep: int, is_whole: Callable[[Path], bool]
) -> None:
    """Once this start has `keep` checkpoints that are whole, remove those before them: its own older ones,
    and those of older starts, which nothing of the line needs any more; none if a newer start might need
    them.

    A newer start takes its number first and looks for checkpoints then; here the checkpoint is put aside
    first, and then we look for newer numbers. Whichever order the two happen in, either the newer start
    does not see the checkpoint, or we see the newer start and put the checkpoint back. So an older start
    never removes what a newer one continues from.
    """
    if newer_start(layout, folder.number) is not None:
        return
    mine = f"{_RETIRED}{folder.number:04d}-"
    for leftover in folder.checkpoints.glob(f"{mine}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    steps = steps_in(folder.checkpoints)
    kept = [step for step in steps if is_whole(folder.checkpoint(step))][-keep:]
    if len(kept) < keep:
        return
    retired = [folder.checkpoint(step) for step in steps if step < kept[0]]
    older = [layout.incarnation(n) for n in layout.incarnation_numbers() if n < folder.number]
    retired += [start.checkpoint(step) for start in older for step in steps_in(start.checkpoints)]
    for leftover in [path for start in older for path in start.checkpoints.glob(f"{_RETIRED}*")]:
        # Half-removed by a start that is gone, or that ends at its next save.
        shutil.rmtree(leftover, ignore_errors=True)
    for path in retired:
        aside = path.with_name(mine + path.name)
        try:
            os.rename(path, aside)
        except FileNotFoundError:  # a start that was cut off has just removed its own
            continue
        if newer_start(layout, folder.number) is not None:
            os.rename(aside, path)
            return
        sync_folder(aside.parent)  # or a crash could bring back the name of a folder without its files
        shutil.rmtree(aside)


def _origin(folder: IncarnationFolder) -> Origin | None:
    try:
        origin = json.loads(folder.start.read_text(encoding="utf-8"))["from"]
        found = None if origin is None else Origin(int(origin["incarnation"]), int(origin["step"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{folder.start} is damaged ({error}); restore it, or start a new run") from error
    if found is not None and found.incarnation >= folder.number:
        raise UserError(
            f"{folder.start} names incarnation {found.incarnation}, which is not older than its own"
        )
    return found

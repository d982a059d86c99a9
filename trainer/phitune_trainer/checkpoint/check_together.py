"""Checking a checkpoint's files against their manifest, shared out over the ranks.

A checkpoint of a full-size model is tens of gigabytes. While one rank alone went through it the others would
wait in a collective, and through two of them longer than a rank is waited for.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from phitune_trainer.checkpoint.files import (
    DamagedCheckpoint,
    FileFacts,
    find_damage,
    raise_first,
    read_manifest,
)
from phitune_trainer.checkpoint.waiting import wait_for_all
from phitune_trainer.engine.world import World


def check_together(world: World, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Compare every file with the manifest; collective, and DamagedCheckpoint on every rank names the first.

    UserError on every rank where one of them may not read its part. `on_progress` is told several times a
    second how many bytes are read, and of how many, over all ranks.
    """
    files = world.from_first(lambda: _manifest(folder))
    if isinstance(files, DamagedCheckpoint):
        raise files
    mine, num_read, counting = files[world.rank :: world.size], 0, Lock()

    def count(num_bytes: int) -> None:
        nonlocal num_read
        with counting:
            num_read += num_bytes

    pool = ThreadPoolExecutor(1, thread_name_prefix="check")
    try:
        checking = pool.submit(find_damage, folder, mine, count)
        total = sum(file.num_bytes for file in mine)
        stalled = f"the volume has given nothing of {folder}"
        wait_for_all(world, checking, lambda: (num_read, total), on_progress, stalled=stalled)
    finally:
        pool.shutdown(wait=False)  # it may wait for a volume that hangs
    found = world.gather(world.together(checking.result))
    damage = {name: told for ranks in found for name, told in ranks.items()}
    raise_first(files, damage)


def _manifest(folder: Path) -> list[FileFacts] | DamagedCheckpoint:
    try:
        return read_manifest(folder)
    except DamagedCheckpoint as problem:
        return problem

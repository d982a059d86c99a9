"""A restart of the operator with 5,000 jobs: what it writes, and how soon it handles a new one."""

import asyncio
import time
from dataclasses import dataclass

from benchrows.row import Bar, Row, Workplace
from operatorbench import operator
from operatorbench.finished import fill, start_actors
from operatorbench.jobs import JOBS, job
from operatorbench.once import Once
from operatorbench.progress import ranks
from operatorbench.running import run_jobs
from operatorbench.scene import Scene, scene
from operatorbench.writes import in_words

NUM_JOBS, NUM_RUNNING = 5000, 100
NEW = "zz-new"
"""The last in every list."""
AFTERWARDS = 30.0
"""Seconds for which writes are counted after all is settled."""


@dataclass(frozen=True)
class Restart:
    """A restart's figures."""

    writes: float
    """Of anything but the new job's."""
    ready_seconds: float
    """From the start of the process until the new job has its PyTorchJob."""


async def _measure(work: Workplace) -> Restart:
    async with scene(work) as here:
        running = [f"job-{number:04}" for number in range(NUM_RUNNING)]
        async with ranks(await run_jobs(here, running)) as served:
            await here.wait_for_phase("Running", running, seconds=120)
            served.stand_still()
            await asyncio.sleep(15)
            await fill(here, NUM_JOBS - NUM_RUNNING - 2)
            start_actors(here)
            await asyncio.sleep(15)
            here.audit.new()
            ready_seconds = await _restart(here)
            assert here.operator is not None
            await here.operator.wait_until_settled()
            await asyncio.sleep(AFTERWARDS)
            writes = here.audit.new()
    others = [write for write in writes if not write.name.startswith(NEW)]
    work.say(f"{len(writes) - len(others)} writes for the new job; others: {in_words(others)}")
    return Restart(float(len(others)), ready_seconds)


async def _restart(here: Scene) -> float:
    """Start the operator, apply a job meanwhile; seconds until it has a PyTorchJob."""
    here.work.say(f"starting the operator with {NUM_JOBS} jobs")
    async with here.gangs() as gangs:
        began = time.monotonic()
        here.operator = operator.start(here.plane)
        await here.api.create(JOBS, job(NEW))
        await here.operator.wait_until_ready()
        here.work.say(f"ready after {time.monotonic() - began:.1f} s")

        async def missing() -> str:
            return "" if NEW in gangs.born else "it has none"

        await here.wait("PyTorchJob of the new job", missing, seconds=300)
        return gangs.born[NEW] - began


_restart_of_5000 = Once(_measure)

ROWS = (
    Row(
        name="restart_5000_writes",
        unit="writes",
        bar=Bar(sign="<=", limit=0),
        summary="what a restart with 5,000 jobs writes, but for a new job",
        measure=lambda work: _restart_of_5000(work).writes,
    ),
    Row(
        name="restart_5000_ready_s",
        unit="s",
        bar=Bar(sign="<=", limit=30),
        summary="from the start with 5,000 jobs until a new job has its PyTorchJob",
        measure=lambda work: _restart_of_5000(work).ready_seconds,
    ),
)

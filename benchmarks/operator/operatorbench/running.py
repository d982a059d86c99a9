"""What 500 running jobs cost the API server: their progress is polled, and written to their status."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from benchrows.row import Bar, NotMeasured, Row, Workplace
from operatorbench.jobs import job
from operatorbench.once import Once
from operatorbench.progress import Ranks, ranks
from operatorbench.scene import Scene, scene
from operatorbench.writes import in_words

NUM_JOBS = 500
SETTLE, WINDOW = 30.0, 60.0
"""Seconds."""


@dataclass(frozen=True)
class StatusWrites:
    """Status writes a second."""

    changing: float
    """While every run goes on."""
    still: float
    """While none has anything new to say."""


async def run_jobs(here: Scene, wanted: Sequence[str]) -> list[str]:
    """Apply jobs, wait until their pods run; the addresses of their ranks 0."""
    here.work.say(f"running {len(wanted)} jobs")
    await here.apply([job(name) for name in wanted])

    async def missing() -> str:
        num_running = len(await here.running_pods())
        return "" if num_running == len(wanted) else f"{num_running} run"

    await here.wait(f"pods of {len(wanted)} jobs", missing, seconds=600)
    return [pod["status"]["podIP"] for pod in await here.running_pods()]


async def _measure(work: Workplace) -> StatusWrites:
    async with scene(work) as here:
        wanted = [f"job-{number:04}" for number in range(NUM_JOBS)]
        async with ranks(await run_jobs(here, wanted)) as served:
            await here.wait_for_phase("Running", wanted, seconds=300)
            await asyncio.sleep(SETTLE)
            changing = await _rate(here, served, "while every run goes on")
            served.stand_still()
            await asyncio.sleep(SETTLE)
            still = await _rate(here, served, "while nothing changes")
    return StatusWrites(changing, still)


async def _rate(here: Scene, served: Ranks, when: str) -> float:
    """Status writes a second over a window in which every rank 0 was asked."""
    here.audit.new()
    asked = served.num_answers
    await asyncio.sleep(WINDOW)
    writes = here.audit.new()
    asked = served.num_answers - asked
    here.work.say(f"{when}: {asked} answers of rank 0, {in_words(writes)}")
    if asked < NUM_JOBS:
        raise NotMeasured(f"only {asked} answers of {NUM_JOBS} ranks in {WINDOW:.0f} s")
    return sum(write.is_status for write in writes) / WINDOW


_status_writes = Once(_measure)

ROWS = (
    Row(
        name="running_500_writes_per_s",
        unit="writes/s",
        bar=Bar(sign="<=", limit=50),
        summary="status writes with 500 running jobs, each with new progress at every poll",
        measure=lambda work: _status_writes(work).changing,
    ),
    Row(
        name="running_500_unchanged_writes_per_s",
        unit="writes/s",
        bar=Bar(sign="<=", limit=0),
        summary="the same while no run has anything new to say",
        measure=lambda work: _status_writes(work).still,
    ),
)

"""How soon a job that is applied has its PyTorchJob: 1,000 at once, and ten a second for five minutes."""

import asyncio
import time
from collections.abc import Sequence

from benchrows.row import Bar, NotMeasured, Row, Workplace
from operatorbench.jobs import JOBS, job
from operatorbench.scene import Scene, scene

AT_ONCE = 1000
A_SECOND, SECONDS = 10, 300
LATE = 60.0
"""Seconds after the last job within which every PyTorchJob has to exist."""


def apply_1000_s(work: Workplace) -> float:
    """Seconds from the first job's creation until all PyTorchJobs exist."""
    return asyncio.run(_at_once(work))


def apply_p99_s(work: Workplace) -> float:
    """Seconds from a job's creation to its PyTorchJob, of which 99% of the jobs need less."""
    return asyncio.run(_evenly(work))


async def _at_once(work: Workplace) -> float:
    async with scene(work) as here, here.gangs() as gangs:
        wanted = [f"job-{number:04}" for number in range(AT_ONCE)]
        work.say(f"applying {AT_ONCE} jobs")
        began = time.monotonic()
        await here.apply([job(name) for name in wanted])
        work.say(f"applied in {time.monotonic() - began:.1f} s")
        born = await _all_born(here, gangs.born, wanted, seconds=600)
        return max(born) - began


async def _evenly(work: Workplace) -> float:
    async with scene(work) as here, here.gangs() as gangs:
        wanted = [f"job-{number:04}" for number in range(A_SECOND * SECONDS)]
        applied: dict[str, float] = {}
        work.say(f"applying {A_SECOND} jobs/s for {SECONDS} s; each runs for a few seconds")
        began = time.monotonic()

        async def apply(number: int) -> None:
            name = wanted[number]
            await asyncio.sleep(began + number / A_SECOND - time.monotonic())
            applied[name] = time.monotonic()
            await here.api.create(JOBS, job(name, ends_soon=True))
            if number % (A_SECOND * 60) == A_SECOND * 60 - 1:
                work.say(f"{number + 1} applied, {len(gangs.born)} have a PyTorchJob")

        async with asyncio.TaskGroup() as tasks:
            for number in range(len(wanted)):
                tasks.create_task(apply(number))
        born = await _all_born(here, gangs.born, wanted, seconds=LATE)
        waits = sorted(at - applied[name] for name, at in zip(wanted, born, strict=True))
        work.say(f"median {quantile(waits, 0.5):.2f} s, longest {waits[-1]:.2f} s")
        return quantile(waits, 0.99)


async def _all_born(
    here: Scene, born: dict[str, float], wanted: Sequence[str], *, seconds: float
) -> list[float]:
    async def missing() -> str:
        absent = [name for name in wanted if name not in born]
        return f"{len(absent)} are missing, for example {absent[0]}" if absent else ""

    await here.wait("PyTorchJob of every job", missing, seconds=seconds)
    return [born[name] for name in wanted]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of these sorted values that so large a share of them does not exceed."""
    if not values:
        raise NotMeasured("nothing was measured")
    return values[max(0, -int(-share * len(values) // 1) - 1)]


ROWS = (
    Row(
        name="apply_1000_s",
        unit="s",
        bar=Bar(sign="<=", limit=60),
        summary="1,000 jobs applied at once: until all PyTorchJobs exist",
        measure=apply_1000_s,
    ),
    Row(
        name="apply_p99_s",
        unit="s",
        bar=Bar(sign="<=", limit=2),
        summary="10 jobs/s for 5 minutes: apply to PyTorchJob, 99% of them",
        measure=apply_p99_s,
    ),
)

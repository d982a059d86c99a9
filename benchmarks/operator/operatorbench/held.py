"""What the operator needs for the jobs that it holds: memory, and processor time idle and at work.

Every figure is of a process that was just started on what is there: nothing of an earlier load is in it.
"""

import asyncio
import time
from dataclasses import dataclass

from benchrows.row import Bar, NotMeasured, Row, Workplace
from operatorbench.api import each
from operatorbench.finished import fill, start_actors
from operatorbench.jobs import JOBS, PODS
from operatorbench.once import Once
from operatorbench.operator import Operator
from operatorbench.process import MIB
from operatorbench.progress import ranks
from operatorbench.running import run_jobs
from operatorbench.scene import FIRST, Scene, scene
from operatorbench.stages import LABEL_END

FEW, MANY = 100, 10_000
ROUNDS = 40
"""How often each of the few jobs is touched, so that the operator looks at it."""
IDLE_SECONDS = 330.0
"""More than the pause between two resyncs: one is among what an idle operator does."""


@dataclass(frozen=True)
class Held:
    """One process of the operator that holds so many jobs."""

    resident: float
    """Bytes, once it is settled."""
    cpu_per_reconcile: float
    """Seconds."""


@dataclass(frozen=True)
class Figures:
    """All that is measured here."""

    few: Held
    many: Held
    peak: float
    """Bytes: the most that a process with many finished jobs has had, start and resync included."""
    idle_cpu: float
    """Share of a core."""


async def _measure(work: Workplace) -> Figures:
    async with scene(work) as here:
        running = [f"job-{number:04}" for number in range(FEW - 1)]
        async with ranks(await run_jobs(here, running)) as served:
            await here.wait_for_phase("Running", running, seconds=120)
            served.stand_still()
            await asyncio.sleep(15)
            await here.stop_operator()
            few = await _held(here, running, FEW)
            await here.start_operator()
            await fill(here, MANY - FEW - 1)
            many = await _held(here, running, MANY)
            work.say("ending the jobs that run")
            start_actors(here)
            await _end(here)
            await here.wait_for_phase("Succeeded", [FIRST, *running], seconds=300)
            await here.stop_operator()
        running_operator = await _settled(here, MANY)
        idle_cpu = await _idle(running_operator, work)
        peak = running_operator.process.peak_resident_bytes()
        work.say(f"at its peak {peak / MIB:.0f} MiB")
        return Figures(few, many, peak, idle_cpu)


async def _settled(here: Scene, num_jobs: int) -> Operator:
    """A fresh process that has looked at everything."""
    began = time.monotonic()
    started = await here.start_operator()
    await started.wait_until_settled()
    await asyncio.sleep(10)  # kopf keeps a task an object for some seconds
    resident, cpu = started.process.resident_bytes(), started.process.cpu_seconds()
    seconds = time.monotonic() - began
    here.work.say(
        f"{num_jobs} jobs: settled in {seconds:.0f} s with {cpu:.1f} s of CPU, {resident / MIB:.0f} MiB"
    )
    return started


async def _held(here: Scene, running: list[str], num_jobs: int) -> Held:
    """Start the operator, and let it look at the running jobs many times."""
    started = await _settled(here, num_jobs)
    resident = started.process.resident_bytes()
    looks, cpu = await started.reconciles(), started.process.cpu_seconds()

    async def touch(number: int) -> None:
        name = running[number % len(running)]
        await here.api.merge(f"{JOBS}/{name}", {"metadata": {"annotations": {"bench/touched": str(number)}}})

    await each(range(ROUNDS * len(running)), touch, at_once=8)
    await started.wait_until_settled()
    looks, cpu = await started.reconciles() - looks, started.process.cpu_seconds() - cpu
    if looks < ROUNDS * len(running) / 2:
        raise NotMeasured(f"only {looks:.0f} looks at jobs that were touched {ROUNDS * len(running)} times")
    here.work.say(f"{num_jobs} jobs: {looks:.0f} looks, {1000 * cpu / looks:.2f} ms of CPU each")
    await here.stop_operator()
    return Held(resident, cpu / looks)


async def _end(here: Scene) -> None:
    """Let the pods that run end soon."""
    await here.start_operator()
    pods = await here.running_pods()
    patch = {"metadata": {"labels": {LABEL_END: "soon"}}}
    await each(pods, lambda pod: here.api.merge(f"{PODS}/{pod['metadata']['name']}", patch))


async def _idle(settled: Operator, work: Workplace) -> float:
    """The share of a core that it takes with nothing to do."""
    work.say(f"idle for {IDLE_SECONDS:.0f} s")
    cpu, began = settled.process.cpu_seconds(), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    return (settled.process.cpu_seconds() - cpu) / (time.monotonic() - began)


_figures = Once(_measure)


def _memory_per_job_kib(work: Workplace) -> float:
    figures = _figures(work)
    return (figures.many.resident - figures.few.resident) / (MANY - FEW) / 1024


def _reconcile_cost_ratio(work: Workplace) -> float:
    figures = _figures(work)
    return figures.many.cpu_per_reconcile / figures.few.cpu_per_reconcile


ROWS = (
    Row(
        name="finished_10000_rss_mib",
        unit="MiB",
        bar=Bar(sign="<=", limit=512),
        summary="peak of resident memory with 10,000 finished jobs",
        measure=lambda work: _figures(work).peak / MIB,
    ),
    Row(
        name="finished_10000_idle_cpu",
        unit="cores",
        bar=Bar(sign="<=", limit=0.02),
        summary="share of a core with 10,000 finished jobs and nothing to do",
        measure=lambda work: _figures(work).idle_cpu,
    ),
    Row(
        name="reconcile_cost_ratio",
        unit="times",
        bar=Bar(sign="<=", limit=1.2),
        summary="CPU of a look at a job with 10,000 jobs / with 100",
        measure=_reconcile_cost_ratio,
    ),
    Row(
        name="memory_per_job_kib",
        unit="KiB",
        bar=Bar(sign="<=", limit=40),
        summary="growth of resident memory a job held",
        measure=_memory_per_job_kib,
    ),
)

"""Our operator as a process of its own, looked at from outside: /proc, /metrics and its probes."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchrows.row import NotMeasured
from operatorbench.controlplane import OPERATOR, ControlPlane, environment, free_ports, spawn
from operatorbench.jobs import NAMESPACE
from operatorbench.process import Process
from phitune_operator.resync import ENDED_A_SECOND

IMAGE = "localhost/phitune/trainer:bench"
READY_SECONDS = 120.0


@dataclass
class Operator:
    """One start of it."""

    child: subprocess.Popen[bytes]
    port: int
    log: Path
    probing: asyncio.Task[None] | None = field(default=None)

    @property
    def process(self) -> Process:
        """What the kernel counts of it."""
        return Process(self.child.pid)

    async def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name and labels, as they are written."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return read_samples(await response.text())

    async def reconciles(self) -> float:
        """How often it has looked at a job."""
        return total(await self.metrics(), "phitune_operator_reconcile_seconds_count")

    async def wait_until_ready(self) -> None:
        """Wait for its readiness probe, and ask it from then on as a kubelet does."""
        for _ in range(int(READY_SECONDS / 0.1)):
            self.check()
            if await self._answers("readyz"):
                self.probing = asyncio.create_task(self._probe())
                return
            await asyncio.sleep(0.1)
        raise NotMeasured(f"the operator was not ready in {READY_SECONDS:.0f} s\n{self.last_lines()}")

    def check(self) -> None:
        """Raise NotMeasured where it has ended by itself, with its last words."""
        if self.child.poll() is not None:
            raise NotMeasured(f"the operator ended with {self.child.returncode}\n{self.last_lines()}")

    async def wait_until_settled(self, *, seconds: float = 600.0) -> None:
        """Wait until every job has been looked at after the start, and for a while none was due."""
        quiet = 0
        num_jobs = total(await self.metrics(), "phitune_operator_jobs")
        await asyncio.sleep(num_jobs / ENDED_A_SECOND)
        for _ in range(int(seconds)):
            self.check()
            depth = total(await self.metrics(), "phitune_operator_queue_depth")
            quiet = quiet + 1 if depth == 0 else 0
            if quiet == 5:
                return
            await asyncio.sleep(1.0)
        raise NotMeasured(f"the operator's queue was not empty after {seconds:.0f} s\n{self.last_lines()}")

    async def stop(self) -> None:
        """Ask it to end, as a kubelet does, and wait for that."""
        if self.probing is not None:
            self.probing.cancel()
        if self.child.poll() is None:
            self.child.terminate()
        try:
            await asyncio.to_thread(self.child.wait, 15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def last_lines(self, count: int = 8) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    async def _probe(self) -> None:
        """The chart's probes, and Prometheus twice a minute."""
        second = 0
        while True:
            await asyncio.sleep(1.0)
            second += 1
            if second % 2 == 0:
                await self._answers("readyz")
            if second % 10 == 0:
                await self._answers("healthz")
            if second % 30 == 0:
                await self._answers("metrics")

    async def _answers(self, path: str) -> bool:
        url = f"http://127.0.0.1:{self.port}/{path}"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                await response.read()
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False


def start(plane: ControlPlane) -> Operator:
    """Start the operator with the rights of its service account, as the chart starts it."""
    (port,) = free_ports(1)
    log = plane.folder / "operator.log"
    command = [
        *(sys.executable, "-m", "phitune_operator.main"),
        *("--trainer-image", IMAGE),
        *("--health-port", str(port)),
        *("--lease", f"{NAMESPACE}/phitune"),
    ]
    return Operator(spawn(command, log, environment(plane.kubeconfig(OPERATOR))), port, log)


def read_samples(text: str) -> dict[str, float]:
    """Samples of Prometheus' text format."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def total(samples: dict[str, float], name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(value for sample, value in samples.items() if sample.partition("{")[0] == name)

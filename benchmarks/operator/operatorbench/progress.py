"""Answers for every rank 0: a small server on the addresses that kwok gives to pods."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

from phitune_operator.names import PROGRESS_PORT

STEPS = 100_000


class Ranks:
    """Runs that go on, or stand still: then every answer is the one before."""

    def __init__(self) -> None:
        self.num_answers = 0
        self._began = time.time()
        self._stopped_at: float | None = None

    def stand_still(self) -> None:
        """From now on nothing changes."""
        self._stopped_at = time.time()

    async def answer(self, request: web.Request) -> web.Response:
        """How far the run is that is asked."""
        self.num_answers += 1
        now = time.time() if self._stopped_at is None else self._stopped_at
        step = int((now - self._began) * 10)
        return web.json_response(
            {
                "attempt": 1,
                "state": "training",
                "step": step,
                "totalSteps": STEPS,
                "percent": round(100 * step / STEPS, 3),
                "epoch": round(step / 1000, 3),
                "loss": round(1.0 + 1.0 / (1 + step), 4),
                "learningRate": 1e-4,
                "imagesPerSecond": 20.0 + step % 7,
                "tokensPerSecond": 8000.0 + step % 101,
                "mfu": 0.41,
                "etaSeconds": (STEPS - step) // 10,
                "updatedAt": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "lastCheckpoint": {
                    "step": step - step % 600,
                    "path": f"incarnations/0001/checkpoints/step-{step - step % 600:08}",
                    "time": datetime.fromtimestamp(now - now % 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
            }
        )


@asynccontextmanager
async def ranks(addresses: Sequence[str]) -> AsyncIterator[Ranks]:
    """Answer /progress at these addresses of the loopback."""
    served = Ranks()
    app = web.Application()
    app.add_routes([web.get("/progress", served.answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        for address in addresses:
            await web.TCPSite(runner, address, PROGRESS_PORT).start()
        yield served
    finally:
        await runner.cleanup()

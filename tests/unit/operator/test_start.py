"""The process ends when it is told to, also while it waits for the cluster."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from phitune_operator.main import is_done_before_signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_wait_for_the_cluster_at_once(number: signal.Signals) -> None:
    async def run() -> bool:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
        return await is_done_before_signal(asyncio.sleep(60))

    assert asyncio.run(run()) is False


def test_wait_that_ends_by_itself_goes_on_and_its_error_is_not_lost() -> None:
    async def fail() -> None:
        raise ValueError("no cluster")

    assert asyncio.run(is_done_before_signal(asyncio.sleep(0))) is True
    with pytest.raises(ValueError, match="no cluster"):
        asyncio.run(is_done_before_signal(fail()))

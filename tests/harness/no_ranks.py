"""A poller of progress that no rank 0 answers."""

from __future__ import annotations

from typing import Any

from phitune_operator.kinds import Key


class NobodyToAsk:
    """Rank 0 cannot be reached."""

    num_asked = 0

    async def poll(self, *_: Any, **__: Any) -> tuple[None, None]:
        return None, None

    def due_in(self, _: Key, *, every: float) -> float:
        return every

    def forget(self, key: Key) -> None:
        pass

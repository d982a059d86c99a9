"""What a rank prints: shown to people where it should be, and kept on the volume.

What libraries, the data and the model say comes through here too: no character of it acts upon a terminal,
now or when the log is read. The volume's folder is known only when the rank has told it; until then the lines
wait in memory.
"""

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, TextIO

from phitune_trainer.plain_text import inert

_MOST_WAITING = 10_000
_LAST_LINES = 20


class RankOutput:
    """Reads one rank's pipe in a thread of its own until the rank closes it.

    `find_log` gives the folder for logs once the rank has reported it; `show` is None for ranks that only
    write to their file.
    """

    def __init__(
        self,
        pipe: IO[bytes],
        *,
        find_log: Callable[[], str | None],
        rank: int,
        show: Callable[[str], None] | None,
    ) -> None:
        self._pipe = pipe
        self._find_log = find_log
        self._rank = rank
        self._show = show
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._file: TextIO | None = None
        self._may_write = True
        self._thread = threading.Thread(target=self._read, name=f"output-{rank}", daemon=True)
        self._thread.start()

    def last_lines(self) -> list[str]:
        """The newest lines that are not blank, oldest first."""
        return list(self._last)

    def finish(self) -> None:
        """Wait for the rest of the output. A grandchild that keeps the pipe open is not waited for."""
        self._thread.join(timeout=5)

    def _read(self) -> None:
        for raw in self._pipe:
            line = inert(raw.decode(errors="replace").rstrip("\r\n"))
            if line.strip():
                self._last.append(line)
            if self._show is not None:
                self._show(line)
            self._keep(line)
        self._keep_waiting()
        if self._file is not None:
            self._file.close()
        self._pipe.close()

    def _keep(self, line: str) -> None:
        self._waiting.append(line)
        self._keep_waiting()

    def _keep_waiting(self) -> None:
        """Write what waits to the volume; a volume that takes no more lines must not stop the training."""
        if not self._may_write:
            return
        try:
            if self._file is None:
                folder = self._find_log()
                if folder is None:
                    return
                Path(folder).mkdir(parents=True, exist_ok=True)
                path = Path(folder, f"rank-{self._rank}.log")
                self._file = path.open("a", encoding="utf-8", buffering=1)
            while self._waiting:
                self._file.write(self._waiting.popleft() + "\n")
        except OSError as error:
            self._may_write = False
            if self._show is not None:
                self._show(f"the log of rank {self._rank} is no longer kept on the volume: {error}")

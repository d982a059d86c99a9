"""Something else in rank 0's place: it hangs, lies, or answers without end when asked for progress."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

from harness.cluster import Object
from harness.kill import first_process
from phitune_operator.names import PROGRESS_PORT

PORT = 8500
SERVER = Path(__file__).with_name("liar_server.py")


class Liar:
    """Takes all new connections to rank 0's port, from inside its pod's network, until it is closed."""

    def __init__(self, pod: Object, how: str) -> None:
        self._enter = ["nsenter", f"--net=/proc/{first_process(pod)}/ns/net", "--"]
        self._how = how
        self.num_asked = 0
        """How many questions it got; known once it is closed."""

    def __enter__(self) -> Self:
        command = [*self._enter, sys.executable, str(SERVER), str(PORT), self._how]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        chosen = ["PREROUTING", "-p", "tcp", "--dport", str(PROGRESS_PORT)]
        away = ["-j", "REDIRECT", "--to-ports", str(PORT)]
        subprocess.run([*self._enter, "iptables", "-t", "nat", "-A", *chosen, *away], check=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        said, _ = self._process.communicate(timeout=30)
        self.num_asked = said.count("asked")

"""What the kernel counts of another process: its memory and its processor time."""

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Process:
    """A process of this machine."""

    pid: int

    def resident_bytes(self) -> int:
        """Resident memory now."""
        return self._memory("VmRSS")

    def peak_resident_bytes(self) -> int:
        """The most resident memory that it has had."""
        return self._memory("VmHWM")

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far, in user mode and in the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _memory(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError(f"process {self.pid} has ended")

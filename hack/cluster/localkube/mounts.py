"""What is mounted below a folder, and taking it away."""

import re
from pathlib import Path

from .shell import run


def parse(mountinfo: str) -> list[Path]:
    """Mount points in the order of mounting; the kernel writes blanks as octal numbers."""
    points = [line.split()[4] for line in mountinfo.splitlines() if line]
    return [
        Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), point)) for point in points
    ]


def mount_points() -> list[Path]:
    """Everything that is mounted, in the order of mounting."""
    return parse(Path("/proc/self/mountinfo").read_text())


def is_mount(path: Path) -> bool:
    """Whether something is mounted right there."""
    return path in mount_points()


def unmount_below(folder: Path) -> int:
    """Unmount everything at or below a folder, the newest first; how many there were."""
    ours = [point for point in mount_points() if point.is_relative_to(folder)]
    for point in reversed(ours):
        run(["umount", "--lazy", point])
    return len(ours)

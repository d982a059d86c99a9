"""The builds of the trainer's image, those of `trainer_builds.toml`, and which of them a GPU gets. Pure."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

Capability = tuple[int, int]
TABLE: Final = "trainer_builds.toml"


@dataclass(frozen=True, kw_only=True)
class Build:
    """One way in which the trainer's image is built."""

    name: str
    lock: str
    """File of requirements/ that names its packages."""
    torch: str
    cuda: str
    deepspeed: str
    flash_attn: str | None = None
    """Version of the package flash-attn; None where it is not in."""
    driver: int
    """Oldest major version of the NVIDIA driver under which it runs."""
    architectures: tuple[Capability, ...]
    """Compute capabilities that it has kernels for."""
    attention: tuple[str, ...]
    """Implementations of attention that it has."""

    def covers(self, capability: Capability) -> bool:
        """Whether its kernels run there: those of the same major version, up to the card's own minor."""
        return any(major == capability[0] and minor <= capability[1] for major, minor in self.architectures)

    def runs_under(self, driver: int | None) -> bool:
        """Whether the driver is new enough; one that nobody knows is not doubted."""
        return driver is None or driver >= self.driver


def read_builds(text: str) -> tuple[Build, ...]:
    """The builds of a table, in its order."""
    return tuple(
        Build(
            name=name,
            lock=row["lock"],
            torch=row["torch"],
            cuda=row["cuda"],
            deepspeed=row["deepspeed"],
            flash_attn=row.get("flash-attn"),
            driver=row["driver"],
            architectures=tuple(_capability(each) for each in row["architectures"]),
            attention=tuple(row["attention"]),
        )
        for name, row in tomllib.loads(text).items()
    )


def _capability(text: str) -> Capability:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


BUILDS: Final = read_builds(resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8"))


def build_for(
    capability: Capability, *, driver: int | None, is_bf16: bool, builds: Sequence[Build] = BUILDS
) -> Build | None:
    """The first build that runs on such a card; None if none does.

    One with flash attention, which takes bf16 alone, comes last where something else is computed in.
    """
    fitting = [build for build in builds if build.covers(capability) and build.runs_under(driver)]
    return min(fitting, key=lambda build: "flash" in build.attention and not is_bf16, default=None)

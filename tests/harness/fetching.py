"""A small model on a hub, and one try to fetch it, as prepare makes it but without pauses."""

from __future__ import annotations

from pathlib import Path

from phitune_trainer.hub import Hub, Repository, Wanted, fetch

PATTERNS = ("*.safetensors", "*.json")
WEIGHTS = bytes(range(256)) * 12_000
MODEL = {
    "config.json": b'{"a": 1}',
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "model.safetensors.index.json": b"{}",
}


def repository(name: str = "team/model", revision: str = "main", kind: str = "model") -> Repository:
    return Repository(
        kind="model" if kind == "model" else "dataset",
        name=name,
        revision=revision,
        secret_field="model.tokenSecret",
        revision_field="model.revision",
    )


class Fetching:
    """One try to fetch a model, as prepare does it, without its pauses."""

    def __init__(self, into: Path, patterns: tuple[str, ...] = PATTERNS) -> None:
        self.into = into
        self.patterns = patterns
        self.said: list[str] = []
        self.pauses: list[float] = []

    def elsewhere(self) -> Fetching:
        """The same into a folder beside, saying it to the same list."""
        other = Fetching(self.into.with_name("other"), self.patterns)
        other.said = self.said
        return other

    def __call__(self, what: Repository | None = None, token: str | None = None) -> None:
        def connect() -> Hub:
            return Hub(self.said.append, token=token, pause=self.pauses.append)

        wanted = Wanted(repository=what or repository(), patterns=self.patterns, into=self.into)
        fetch(wanted, connect, self.said.append)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".hub-")
    }

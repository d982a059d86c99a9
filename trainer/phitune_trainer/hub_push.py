"""Putting an export on the hub: a repository, its files, one commit that has them all.

Files go by plain HTTP into the hub's large file storage, as they are fetched, also where the client could use
Xet: every mirror and proxy can pass that on. Nobody sees half of them, since only the commit names them. What
a push that was cut off has stored is not sent again by the next one.
"""

import io
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from phitune_trainer.errors import UserError
from phitune_trainer.hub_connection import TRANSIENT, Connection, HubUnavailable, Remedies, T, said
from phitune_trainer.model.files import INDEX
from phitune_trainer.transfer import Say, Transfer, size

_REMEDIES: Final = Remedies(
    offline="so nothing can be pushed; unset it, or leave out --push-to",
    unreachable="set HF_ENDPOINT to a hub that can be reached",
    token_place="into HF_TOKEN, or log in with `hf auth login`",  # noqa: S106 - words
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where on the hub an export goes."""

    name: str
    """Of the repository: owner/name."""
    private: bool
    """Whether nobody else may see it."""
    revision: str | None
    """Branch, made where it is not there; None: the main one."""


class Publisher(Connection):
    """A connection to push by. Methods raise UserError for what the user can mend, else HubUnavailable.

    What was stored before either stays: the next push goes on from there.
    """

    def __init__(self, say: Say, target: Target, *, pause: Callable[[float], None] = time.sleep) -> None:
        """The token is that of the environment or of a login. UserError where there is none, or where the
        target can be no repository.
        """
        super().__init__(say, _REMEDIES, token=None, pause=pause)
        self._target = target
        _check_name(target.name)
        if self.token is None:
            raise UserError(
                f"pushing to {self.endpoint} needs a token that may write: make one at "
                f"{self.endpoint}/settings/tokens and set HF_TOKEN, or log in with `hf auth login`"
            )

    def push(self, folder: Path, message: str) -> str:
        """Put the files of a folder into one commit; its address, for people.

        Files of the same names get a new version; weights that the folder does not have are removed, so that
        what lies there is this export and nothing of another.
        """
        target = self._target
        self._make_ready()
        with _quiet_client(), _opened(folder) as additions:
            self._store(additions)
            operations: list[CommitOperationAdd | CommitOperationDelete] = [*additions]
            operations += self._left_over(additions)
            commit = self._ask(
                lambda: self.api.create_commit(
                    target.name, operations, commit_message=message, revision=target.revision
                )
            )
        return f"{self.endpoint}/{target.name}/tree/{commit.oid}"

    def _make_ready(self) -> None:
        """Make sure that the repository and its branch are there, and as private as they should be."""
        target = self._target
        self._ask(lambda: self.api.create_repo(target.name, private=target.private or None, exist_ok=True))
        if target.private and not self._ask(lambda: self.api.model_info(target.name)).private:
            raise UserError(
                f"{target.name} is there already and everybody can see it; leave out --private, make it "
                f"private at {self.endpoint}/{target.name}/settings, or choose another name"
            )
        if target.revision is not None:
            branch = target.revision
            self._ask(lambda: self.api.create_branch(target.name, branch=branch, exist_ok=True))

    def _store(self, additions: Sequence[CommitOperationAdd]) -> None:
        """Send what goes into the large file storage and is not there yet."""
        target = self._target
        total = sum(addition.upload_info.size for addition in additions)
        self._say(f"pushing {len(additions)} files, {size(total)}, to {self.endpoint}/{target.name}")
        transfer = Transfer(target.name, total, 0, self._say)
        for addition in additions:
            file = addition.path_or_fileobj
            assert isinstance(file, _Counted)
            file.count = transfer.add
            self._send(
                lambda one=addition: self.api.preupload_lfs_files(  # type: ignore[misc]
                    target.name, [one], revision=target.revision
                ),
            )
            file.finish()

    def _left_over(self, additions: Sequence[CommitOperationAdd]) -> list[CommitOperationDelete]:
        """Weights of an earlier push that this one has not."""
        target = self._target
        pushed = {addition.path_in_repo for addition in additions}
        there = self._ask(lambda: self.api.model_info(target.name, revision=target.revision))
        names = [file.rfilename for file in there.siblings or []]
        old = [name for name in names if name not in pushed and _is_weights(name)]
        for name in old:
            self._say(f"{name} is of an earlier push, and is removed")
        return [CommitOperationDelete(path_in_repo=name) for name in old]

    def _ask(self, act: Callable[[], T]) -> T:
        """Ask for something small, which is tried again where that may help."""
        return self.persevere(lambda _: self._attempt(act), self._refusal)

    def _send(self, act: Callable[[], T]) -> T:
        """Send a file; the client itself tries that again for half a minute."""
        try:
            return self._attempt(act)
        except httpx.HTTPError as error:
            raise self.in_words(error, self._refusal) from error

    def _attempt(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except RuntimeError as error:  # what the client makes of a failed transfer of a file
            if isinstance(error.__cause__, httpx.HTTPError):
                raise error.__cause__ from error
            raise
        except ValueError as error:
            raise UserError(f"{self._target.name}: {self.endpoint} does not take it: {error}") from error

    def _refusal(self, error: HfHubHTTPError) -> Exception:
        target = self._target
        status, code = error.response.status_code, error.response.headers.get("X-Error-Code", "")
        tokens = f"{self.endpoint}/settings/tokens"
        if status == 401:
            return UserError(
                f"{self.endpoint} refuses the token: it is mistyped, revoked or expired; make a new one that "
                f"may write at {tokens} and set HF_TOKEN"
            )
        if status == 403:
            return UserError(
                f"{target.name}: {self.endpoint} forbids it to the owner of the token ({said(error)}); the "
                f"token must be one that may write, and its owner must be, or belong to, "
                f"{target.name.partition('/')[0]}; see {tokens}"
            )
        if code == "RevisionNotFound" or status == 404:
            return UserError(
                f"{target.name}: {self.endpoint} answers that it is not there ({said(error)}); is its "
                "owner's name right?"
            )
        if status in TRANSIENT:
            return HubUnavailable(f"{self.endpoint} keeps answering {status}: {said(error)}")
        return UserError(f"{target.name}: {self.endpoint} answered {status}: {said(error)}")


class _Counted(io.BufferedReader):
    """A file that tells how far it has been read, from the moment on that `count` is set.

    Files that the client is given open it sends by plain HTTP, never by Xet, and shows no bar of its own.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.count: Callable[[int], None] | None = None
        self._size = path.stat().st_size
        self._counted = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        piece = super().read(size)
        self._count_to(self.tell())
        return piece

    def finish(self) -> None:
        """Count what was there already as sent."""
        self._count_to(self._size)

    def _count_to(self, place: int) -> None:
        if self.count is not None:
            self.count(place - self._counted)
            self._counted = place


@contextmanager
def _opened(folder: Path) -> Iterator[list[CommitOperationAdd]]:
    """The files of a folder as the client takes them; hidden ones are not part of an export."""
    files: list[_Counted] = []
    try:
        additions = []
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                files.append(_Counted(path))
                additions.append(CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=files[-1]))
        yield additions
    finally:
        for file in files:
            file.close()


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Within it the client leaves it to us to say what is tried again.

    What it would say itself has the addresses that bytes are sent to, which are as good as a password.
    """
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push-to {name}: {error}; name it as OWNER/NAME") from error
    if "/" not in name:
        raise UserError(f"--push-to {name}: has no owner; name it as OWNER/NAME")


def _is_weights(name: str) -> bool:
    return "/" not in name and (name.endswith(".safetensors") or name == INDEX)

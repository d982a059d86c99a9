"""Fetching from the hub over HTTP: which files a repository has at a revision, and their bytes.

Bytes come by plain HTTP, also where the hub could serve them by Xet: every mirror and proxy can pass that on,
it goes on where it was cut off, and nothing is kept in caches outside the volume.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import httpx
import huggingface_hub
from huggingface_hub import get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import RepoSibling

from phitune_trainer.errors import UserError
from phitune_trainer.hub_connection import (
    PAUSES,
    TIMEOUT,
    TRANSIENT,
    Connection,
    HubUnavailable,
    Remedies,
    T,
    said,
)
from phitune_trainer.partial_file import HubFile, PartialFile
from phitune_trainer.transfer import Say

Kind = Literal["model", "dataset"]

_REMEDIES: Final = Remedies(
    offline="and what is needed is not on the volume; unset it, or copy the files to the volume and set "
    "model.path and data.path",
    unreachable="set HF_ENDPOINT to a mirror, or copy the files to the volume and set model.path and "
    "data.path",
    token_place="under the key `HF_TOKEN` into the secret that spec.model.tokenSecret or "  # noqa: S106 - words
    "spec.data.tokenSecret names (outside a cluster, into HF_TOKEN)",
)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of the hub at a revision, and what a job calls it."""

    kind: Kind
    name: str
    revision: str
    """Branch, tag or commit."""
    secret_field: str
    """Field of a FineTuneJob that names the secret with the token."""
    revision_field: str

    def page(self, endpoint: str) -> str:
        """Address of its page, for people."""
        return f"{endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A repository's files at a commit."""

    commit: str
    files: tuple[HubFile, ...]


class Hub(Connection):
    """A connection to fetch by. Methods raise UserError for what the user can mend, else HubUnavailable."""

    def __init__(self, say: Say, *, token: str | None, pause: Callable[[float], None] = time.sleep) -> None:
        """See Connection."""
        super().__init__(say, _REMEDIES, token=token, pause=pause)

    def look_up(self, repository: Repository, wanted: Callable[[str], bool]) -> Listing:
        """The commit that the revision stands for, and those of its files whose names are wanted."""
        describe = self.api.model_info if repository.kind == "model" else self.api.dataset_info

        def ask(_: Callable[[], None]) -> tuple[str, list[RepoSibling]]:
            try:
                about = describe(
                    repository.name,
                    revision=repository.revision,
                    files_metadata=True,
                    timeout=TIMEOUT.read,
                )
            except HFValidationError as error:
                raise UserError(f"{repository.name} is no {repository.kind} of the hub: {error}") from error
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{self.endpoint} does not answer as a hub does; does HF_ENDPOINT name a mirror of the "
                    "hub, and does no login page of a network stand in the way?"
                ) from error
            return about.sha or "", list(about.siblings or [])

        commit, siblings = self._persevere(repository, ask)
        files = [self._described(repository, commit, file) for file in siblings if wanted(file.rfilename)]
        return Listing(commit=commit, files=tuple(sorted(files, key=lambda file: file.path)))

    def fetch(
        self,
        repository: Repository,
        file: PartialFile,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Add to the file what it lacks; `on_bytes` is told the bytes that each piece adds.

        The repository's revision must be a commit, which no later push changes.
        """
        url = self._address(repository, repository.revision, file.wanted.path)
        # The bytes of the file, not of a compressed form of it: only those have a place to go on from.
        headers = {"User-Agent": "phitune", "Accept-Encoding": "identity"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"

        furthest = file.size

        def read(moved: Callable[[], None]) -> None:
            nonlocal furthest
            while file.size < file.wanted.size:
                ranged = {"Range": f"bytes={file.size}-"} if file.size else {}
                with get_session().stream("GET", url, headers={**headers, **ranged}) as response:
                    if ranged and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                        on_bytes(-file.restart())
                        continue
                    hf_raise_for_status(response)
                    if file.size and not _goes_on_at(response, file.size):
                        on_bytes(-file.restart())
                    for piece in response.iter_bytes():
                        file.write(piece)
                        if file.size > furthest:  # the same bytes once more are no progress
                            furthest = file.size
                            moved()
                        on_bytes(len(piece))
                        if file.size > file.wanted.size:  # not that file: its checksum will say so
                            break
                if file.size < file.wanted.size:
                    raise httpx.RemoteProtocolError(f"{file.size} of {file.wanted.size} bytes came")

        self._persevere(repository, read)

    def _described(self, repository: Repository, commit: str, sibling: RepoSibling) -> HubFile:
        """A file with its size and checksum; a mirror that leaves them out is asked for each file."""
        size, checksum = sibling.size, None
        if sibling.lfs is not None:
            size, checksum = sibling.lfs.size, sibling.lfs.sha256
        blob = sibling.blob_id if checksum is None else None
        if size is None:
            url = self._address(repository, commit, sibling.rfilename)
            told = self._persevere(
                repository,
                lambda _: huggingface_hub.get_hf_file_metadata(
                    url, token=self.token or False, timeout=TIMEOUT.read, endpoint=self.url
                ),
            )
            size, etag = told.size, told.etag or ""
            checksum, blob = (etag if len(etag) == 64 else None), (etag if len(etag) == 40 else None)
        if size is None:
            raise UserError(
                f"{self.endpoint} does not say how large {sibling.rfilename} of {repository.name} is"
            )
        return HubFile(path=sibling.rfilename, size=size, sha256=checksum, blob=blob)

    def _address(self, repository: Repository, commit: str, path: str) -> str:
        return huggingface_hub.hf_hub_url(
            repository.name, path, repo_type=repository.kind, revision=commit, endpoint=self.url
        )

    def _persevere(self, repository: Repository, act: Callable[[Callable[[], None]], T]) -> T:
        return self.persevere(act, lambda error: self._refusal(repository, error))

    def _refusal(self, repository: Repository, error: HfHubHTTPError) -> Exception:
        status, code = error.response.status_code, error.response.headers.get("X-Error-Code", "")
        what = f"{repository.kind} {repository.name}"
        page, field = repository.page(self.endpoint), repository.secret_field
        secret = f"put a token into a secret under the key `HF_TOKEN` and name the secret in spec.{field}"
        outside = "outside a cluster, set HF_TOKEN"
        if code == "GatedRepo" or (status == 403 and self.token is None):
            if self.token is None:
                return UserError(
                    f"{what} is gated and there is no token: accept its licence at {page}, then {secret} "
                    f"({outside})"
                )
            return UserError(
                f"{what} is gated and the owner of the token has no access: accept its licence at {page} as "
                f"that user; a fine-grained token must be allowed to read gated repositories (spec.{field})"
            )
        if status == 401 and self.token is not None:
            return UserError(
                f"{self.endpoint} refuses the token: it is mistyped, revoked or expired; make a new one at "
                f"{self.endpoint}/settings/tokens and put it into the secret of spec.{field} ({outside})"
            )
        if code == "RevisionNotFound":
            return UserError(
                f"{what} has no revision {repository.revision!r}; set spec.{repository.revision_field} to a "
                f"branch, tag or commit that {page} has"
            )
        if code == "EntryNotFound":
            return UserError(
                f"{what}: {error.response.url.path} is listed but not there; is the mirror whole?"
            )
        if status in (401, 404):
            private = "" if self.token else f"; if it is private, {secret} ({outside})"
            return UserError(f"{what} is not at {self.endpoint}: is its name right?{private}")
        if status == 403:
            return UserError(f"{what}: {self.endpoint} forbids it to the owner of the token: {said(error)}")
        if status == 429:
            return HubUnavailable(
                f"{self.endpoint} still limits the rate after {len(PAUSES)} waits"
                + ("" if self.token else f"; with a token the limit is higher: {secret} ({outside})")
            )
        if status in TRANSIENT:
            return HubUnavailable(f"{self.endpoint} answered {status} {len(PAUSES) + 1} times: {said(error)}")
        return UserError(f"{what}: {self.endpoint} answered {status}: {said(error)}")


def _goes_on_at(response: httpx.Response, size: int) -> bool:
    """Whether the answer begins at that byte; a server that knows no ranges begins at the first one."""
    given = response.headers.get("Content-Range", "")
    return response.status_code == httpx.codes.PARTIAL_CONTENT and given.startswith(f"bytes {size}-")

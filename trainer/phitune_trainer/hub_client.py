"""The hub over HTTP: which files a repository has at a revision, and their bytes, through huggingface_hub.

The environment says where the hub is and how to get there, as huggingface_hub has it: HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE, HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE; REQUESTS_CA_BUNDLE, which many set-ups still
use, counts as well. Bytes come by plain HTTP, also where the hub could serve them by Xet: every mirror and
proxy can pass that on, it goes on where it was cut off, and nothing is kept in caches outside the volume.
"""

import email.utils
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

import httpx
import huggingface_hub
from huggingface_hub import get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import RepoSibling

from phitune_trainer.errors import Unavailable, UserError
from phitune_trainer.partial_file import HubFile, PartialFile

Say = Callable[[str], None]
Kind = Literal["model", "dataset"]
T = TypeVar("T")

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between tries of what may heal by itself; a minute in all. Bytes that arrive start them anew."""
LONGEST_PAUSE: Final = 900.0
"""The most that a server may ask to wait."""
_TIMEOUT: Final = httpx.Timeout(connect=15.0, read=60.0, write=15.0, pool=15.0)
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class HubUnavailable(Unavailable):
    """The hub, or the way to it, has failed for longer than is waited here; a later try may succeed."""


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


class Hub:
    """A connection to the hub. Methods raise UserError for what the user can mend, else HubUnavailable."""

    def __init__(self, say: Say, *, token: str | None, pause: Callable[[float], None] = time.sleep) -> None:
        """`token` is that of the environment or of a login where None. UserError for an environment that
        cannot be used.
        """
        self._url = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.endpoint = _without_password(self._url)
        """Where the hub is, for people."""
        self._say = say
        self._token = (token or huggingface_hub.get_token() or "").strip() or None
        self._pause = pause
        self._was_reached = False
        if huggingface_hub.is_offline_mode():
            raise UserError(
                "HF_HUB_OFFLINE is set, and what is needed is not on the volume; unset it, or copy the files "
                "to the volume and set model.path and data.path"
            )
        _check_address(self._url, "HF_ENDPOINT")
        _check_token(self._token)
        huggingface_hub.set_client_factory(_client)
        try:
            get_session()
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise UserError(
                f"the proxy {_proxies() or 'of the environment'} cannot be used: {error}; "
                "HTTPS_PROXY must be like http://proxy.example.com:3128"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        huggingface_hub.close_session()

    def look_up(self, repository: Repository, wanted: Callable[[str], bool]) -> Listing:
        """The commit that the revision stands for, and those of its files whose names are wanted."""
        token = self._token or False
        api = huggingface_hub.HfApi(endpoint=self._url, token=token, library_name="phitune")
        describe = api.model_info if repository.kind == "model" else api.dataset_info

        def ask(_: Callable[[], None]) -> tuple[str, list[RepoSibling]]:
            try:
                about = describe(
                    repository.name,
                    revision=repository.revision,
                    files_metadata=True,
                    timeout=_TIMEOUT.read,
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
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"

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
                    url, token=self._token or False, timeout=_TIMEOUT.read, endpoint=self._url
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
            repository.name, path, repo_type=repository.kind, revision=commit, endpoint=self._url
        )

    def _persevere(self, repository: Repository, act: Callable[[Callable[[], None]], T]) -> T:
        """Do it until it succeeds, with pauses; `act` gets a function to call when it has come further."""
        failures = 0

        def moved() -> None:
            nonlocal failures
            failures, self._was_reached = 0, True

        while True:
            try:
                result = act(moved)
            except httpx.HTTPError as error:
                status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
                self._was_reached |= status is not None
                may_heal = status in _TRANSIENT if status is not None else _may_heal(error)
                if not may_heal or failures == len(PAUSES):
                    raise self._in_words(repository, error) from error
                pause = _asked_pause(error) or PAUSES[failures]
                failures += 1
                what = _first_line(error) if status is None else f"{self.endpoint} answered {status}"
                self._say(f"{what}; trying again in {pause:.0f} s")
                self._pause(pause)
            else:
                moved()
                return result

    def _in_words(self, repository: Repository, error: httpx.HTTPError) -> Exception:
        if isinstance(error, HfHubHTTPError):
            return self._refusal(repository, error)
        reason = _first_line(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return UserError(
                f"{self.endpoint}: its TLS certificate is not trusted ({reason}); if a mirror or a proxy of "
                "your own answers here, set SSL_CERT_FILE to a file with the certificate of its CA"
            )
        proxies = _proxies()
        way = f"through the proxy {proxies}" if proxies else "with no proxy set (HTTPS_PROXY)"
        if self._was_reached or not _is_no_connection(error):
            return HubUnavailable(f"{self.endpoint} stopped answering, {way}: {reason}")
        # A name server or a mirror that starts anew looks like a wrong name: only a later try can tell.
        kind = UserError if _is_refusal_of_proxy(error) else HubUnavailable
        return kind(
            f"{self.endpoint} cannot be reached {way}: {reason}; where there is no way to the internet, set "
            "HF_ENDPOINT to a mirror, or copy the files to the volume and set model.path and data.path"
        )

    def _refusal(self, repository: Repository, error: HfHubHTTPError) -> Exception:
        status, code = error.response.status_code, error.response.headers.get("X-Error-Code", "")
        what = f"{repository.kind} {repository.name}"
        page, field = repository.page(self.endpoint), repository.secret_field
        secret = f"put a token into a secret under the key `token` and name the secret in spec.{field}"
        outside = "outside a cluster, set HF_TOKEN"
        if code == "GatedRepo" or (status == 403 and self._token is None):
            if self._token is None:
                return UserError(
                    f"{what} is gated and there is no token: accept its licence at {page}, then {secret} "
                    f"({outside})"
                )
            return UserError(
                f"{what} is gated and the owner of the token has no access: accept its licence at {page} as "
                f"that user; a fine-grained token must be allowed to read gated repositories (spec.{field})"
            )
        if status == 401 and self._token is not None:
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
            private = "" if self._token else f"; if it is private, {secret} ({outside})"
            return UserError(f"{what} is not at {self.endpoint}: is its name right?{private}")
        if status == 403:
            return UserError(f"{what}: {self.endpoint} forbids it to the owner of the token: {_said(error)}")
        if status == 429:
            return HubUnavailable(
                f"{self.endpoint} still limits the rate after {len(PAUSES)} waits"
                + ("" if self._token else f"; with a token the limit is higher: {secret} ({outside})")
            )
        if status in _TRANSIENT:
            return HubUnavailable(
                f"{self.endpoint} answered {status} {len(PAUSES) + 1} times: {_said(error)}"
            )
        return UserError(f"{what}: {self.endpoint} answered {status}: {_said(error)}")


def _client() -> httpx.Client:
    return httpx.Client(follow_redirects=True, timeout=_TIMEOUT, verify=_trusted_certificates())


def _trusted_certificates() -> ssl.SSLContext:
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if not (named := os.environ.get(variable)):
            continue
        try:
            if Path(named).is_dir():
                return ssl.create_default_context(capath=named)
            return ssl.create_default_context(cafile=named)
        except OSError as error:  # an ssl.SSLError is one
            raise UserError(
                f"{variable}={named}: {error.strerror or error}; it must be a file of PEM certificates"
            ) from error
    return _public_certificates()


@cache
def _public_certificates() -> ssl.SSLContext:
    """Read once: there are many of them. SSL_CERT_DIR may name others."""
    return httpx.create_ssl_context()


def _check_address(address: str, name: str) -> None:
    try:
        parts = httpx.URL(address)
    except httpx.InvalidURL:
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UserError(f"{name}={_without_password(address)}: must be like https://mirror.example.com")


def _check_token(token: str | None) -> None:
    """Before a header is made of it: errors of the client show the header."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise UserError(
            "the hub's token holds a line break, a space or another character that no token has; put the "
            "token alone under the key `token` into the secret that spec.model.tokenSecret or "
            "spec.data.tokenSecret names (outside a cluster, into HF_TOKEN)"
        )


def _proxies() -> str:
    """The proxies of the environment without their passwords; empty if there are none."""
    found = {url for scheme, url in urllib.request.getproxies().items() if scheme in ("http", "https", "all")}
    return " and ".join(sorted(f"{_without_password(url)}" for url in found))


def _without_password(url: str) -> str:
    scheme, divider, rest = url.rpartition("://")
    return f"{scheme}{divider}{rest.rpartition('@')[2]}"


def _goes_on_at(response: httpx.Response, size: int) -> bool:
    """Whether the answer begins at that byte; a server that knows no ranges begins at the first one."""
    given = response.headers.get("Content-Range", "")
    return response.status_code == httpx.codes.PARTIAL_CONTENT and given.startswith(f"bytes {size}-")


def _may_heal(error: httpx.HTTPError) -> bool:
    return isinstance(error, httpx.TransportError) and not (
        isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
        or "CERTIFICATE_VERIFY_FAILED" in str(error)
    )


def _is_no_connection(error: httpx.HTTPError) -> bool:
    """Whether no connection came about at all: a name or an address is wrong, or nothing leads there."""
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)


def _is_refusal_of_proxy(error: httpx.HTTPError) -> bool:
    """Whether the proxy answered that it will not: 407, for example, and not that it cannot, as by 502."""
    return isinstance(error, httpx.ProxyError) and str(error).startswith("4")


def _asked_pause(error: httpx.HTTPError) -> float | None:
    """Seconds that the server asks to wait, as a number or as a date."""
    told = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    if told.strip().isdecimal():
        return min(float(told), LONGEST_PAUSE)
    try:
        until = email.utils.parsedate_to_datetime(told)
    except ValueError:
        return None
    if until.tzinfo is None:  # no zone, or -0000: UTC, as HTTP's dates always are
        until = until.replace(tzinfo=UTC)
    return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_PAUSE)


def _said(error: HfHubHTTPError) -> str:
    return error.server_message or error.response.reason_phrase


def _first_line(error: Exception) -> str:
    if isinstance(error, httpx.LocalProtocolError):  # its words quote the request's headers
        return "the request cannot be sent"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

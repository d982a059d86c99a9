"""A connection to the hub through huggingface_hub, as the environment describes it.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HTTPS_PROXY, HTTP_PROXY, NO_PROXY and SSL_CERT_FILE count as
huggingface_hub has them; REQUESTS_CA_BUNDLE, which many set-ups still use, counts as well.
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
from typing import Final, Self, TypeVar

import httpx
import huggingface_hub
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError

from phitune_trainer.errors import Unavailable, UserError
from phitune_trainer.transfer import Say

T = TypeVar("T")

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between tries of what may heal by itself; a minute in all. Bytes that arrive start them anew."""
LONGEST_PAUSE: Final = 900.0
"""The most that a server may ask to wait."""
TIMEOUT: Final = httpx.Timeout(connect=15.0, read=60.0, write=15.0, pool=15.0)
TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class HubUnavailable(Unavailable):
    """The hub, or the way to it, has failed for longer than is waited here; a later try may succeed."""

    reason = "HubUnavailable"


@dataclass(frozen=True, kw_only=True)
class Remedies:
    """What the errors of a connection advise, which depends on what it is for."""

    offline: str
    """Where HF_HUB_OFFLINE is set."""
    unreachable: str
    """Where there is no way to the hub."""
    token_place: str
    """Where the token belongs."""


class Connection:
    """The hub that the environment names, and how long it is waited for."""

    def __init__(
        self,
        say: Say,
        remedies: Remedies,
        *,
        token: str | None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`token` is that of the environment or of a login where None. UserError for an environment that
        cannot be used.
        """
        self.url = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.endpoint = without_password(self.url)
        """Where the hub is, for people."""
        self.token = (token or huggingface_hub.get_token() or "").strip() or None
        self._say = say
        self._remedies = remedies
        self._pause = pause
        self._was_reached = False
        if huggingface_hub.is_offline_mode():
            raise UserError(f"HF_HUB_OFFLINE is set, {remedies.offline}")
        _check_address(self.url, "HF_ENDPOINT")
        _check_token(self.token, remedies.token_place)
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

    @property
    def api(self) -> huggingface_hub.HfApi:
        """The client's own interface, at this hub and with this token alone."""
        return huggingface_hub.HfApi(endpoint=self.url, token=self.token or False, library_name="phitune")

    def persevere(
        self,
        act: Callable[[Callable[[], None]], T],
        refusal: Callable[[HfHubHTTPError], Exception],
    ) -> T:
        """Do it until it succeeds, with pauses; `act` gets a function to call when it has come further.

        Raises what `refusal` makes of an answer that no waiting changes, and what `in_words` does.
        """
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
                may_heal = status in TRANSIENT if status is not None else _may_heal(error)
                if not may_heal or failures == len(PAUSES):
                    raise self.in_words(error, refusal) from error
                pause = _asked_pause(error) or PAUSES[failures]
                failures += 1
                what = _first_line(error) if status is None else f"{self.endpoint} answered {status}"
                self._say(f"{what}; trying again in {pause:.0f} s")
                self._pause(pause)
            else:
                moved()
                return result

    def in_words(self, error: httpx.HTTPError, refusal: Callable[[HfHubHTTPError], Exception]) -> Exception:
        """What to tell the user: UserError for what they can mend, else HubUnavailable."""
        if isinstance(error, HfHubHTTPError):
            return refusal(error)
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
            f"{self.endpoint} cannot be reached {way}: {reason}; where there is no way to the internet, "
            f"{self._remedies.unreachable}"
        )


def _client() -> httpx.Client:
    return httpx.Client(follow_redirects=True, timeout=TIMEOUT, verify=_trusted_certificates())


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
        raise UserError(f"{name}={without_password(address)}: must be like https://mirror.example.com")


def _check_token(token: str | None, place: str) -> None:
    """Before a header is made of it: errors of the client show the header."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise UserError(
            "the hub's token holds a line break, a space or another character that no token has; put the "
            f"token alone {place}"
        )


def _proxies() -> str:
    """The proxies of the environment without their passwords; empty if there are none."""
    found = {url for scheme, url in urllib.request.getproxies().items() if scheme in ("http", "https", "all")}
    return " and ".join(sorted(f"{without_password(url)}" for url in found))


def without_password(url: str) -> str:
    """The address as it may be shown."""
    scheme, divider, rest = url.rpartition("://")
    return f"{scheme}{divider}{rest.rpartition('@')[2]}"


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


def said(error: HfHubHTTPError) -> str:
    """What the hub answered, in its own words."""
    return error.server_message or error.response.reason_phrase


def _first_line(error: Exception) -> str:
    if isinstance(error, httpx.LocalProtocolError):  # its words quote the request's headers
        return "the request cannot be sent"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

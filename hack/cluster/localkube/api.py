"""A small client of the API server, for the few calls that this package makes itself."""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from .console import ClusterError
from .paths import Paths
from .plan import API_PORT, Cluster

Object = dict[str, Any]
PatchType = Literal["merge", "apply"]
MANAGER = "local-cluster"
"""Owner of the fields that we set."""

_PATCH_TYPES = {"merge": "application/merge-patch+json", "apply": "application/apply-patch+yaml"}


class ApiError(ClusterError):
    """The API server refused; `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(ClusterError):
    """Nobody answered."""


@dataclass(frozen=True)
class Api:
    """A client with one identity."""

    host: str
    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, cluster: Cluster, paths: Paths, client: str = "admin") -> "Api":
        """The client for a cluster, as one of the clients that `pki` makes."""
        pki = paths.pki
        return cls(str(cluster.control_address), pki / "ca.crt", pki / f"{client}.crt", pki / f"{client}.key")

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        return context

    def _connect(self, seconds: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, API_PORT, context=self._context, timeout=seconds)

    def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = "application/json",
        seconds: float = 10.0,
    ) -> str:
        """One request; the body of the answer, or an error with the server's words."""
        with closing(self._connect(seconds)) as connection:
            try:
                headers = {"Content-Type": content_type, "Accept": "application/json"}
                connection.request(method, path, json.dumps(body) if body is not None else None, headers)
                response = connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException) as problem:
                raise UnreachableError(f"{method} {path}: {problem}") from problem
        if response.status >= 300:
            raise ApiError(response.status, f"{method} {path}: {response.status} {_message(text)}")
        return text

    def get(self, path: str) -> Object:
        """One object, or one list."""
        return _object(self.call("GET", path))

    def find(self, path: str) -> Object | None:
        """The object, or None when there is none of that name."""
        try:
            return self.get(path)
        except ApiError as problem:
            if problem.status == 404:
                return None
            raise

    def items(self, path: str) -> list[Object]:
        """The objects of a list."""
        found: list[Object] = self.get(path)["items"]
        return found

    def create(self, path: str, body: Object) -> Object:
        """Make an object; a 409 says that there is one."""
        return _object(self.call("POST", path, body))

    def patch(self, path: str, body: Object, kind: PatchType = "merge") -> Object:
        """Change an object: by `merge`, or by server-side `apply`, which also creates it."""
        query = {"fieldManager": MANAGER, **({"force": "true"} if kind == "apply" else {})}
        return _object(self.call("PATCH", f"{path}?{urlencode(query)}", body, _PATCH_TYPES[kind]))

    def delete(self, path: str) -> None:
        """Ask for deletion; one that is gone already is fine."""
        try:
            self.call("DELETE", path)
        except ApiError as problem:
            if problem.status != 404:
                raise

    def watch(self, path: str, *, seconds: int) -> Iterator[Mapping[str, Any]]:
        """Changes as they come, until the server ends the watch."""
        query = urlencode({"watch": "true", "timeoutSeconds": seconds})
        with closing(self._connect(seconds + 10.0)) as connection:
            try:
                connection.request("GET", f"{path}?{query}")
                response = connection.getresponse()
                if response.status >= 300:
                    raise ApiError(response.status, f"watch {path}: {response.status}")
                while line := response.readline():
                    yield _object(line.decode())
            except (OSError, http.client.HTTPException) as problem:
                raise UnreachableError(f"watch {path}: {problem}") from problem

    def is_ready(self) -> bool:
        """Whether the API server answers and says that it is ready."""
        try:
            return self.call("GET", "/readyz", seconds=2.0) == "ok"
        except (ApiError, UnreachableError):
            return False


def _object(text: str) -> Object:
    loaded: Object = json.loads(text)
    return loaded


def _message(text: str) -> str:
    try:
        return str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        return text.strip()

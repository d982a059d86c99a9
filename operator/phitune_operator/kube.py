"""The API server, as the operator sees it: a few verbs on plain dicts, and errors in our own words.

Nothing else in the package knows the HTTP library. Every call has a time limit; none is retried here, since
whoever called will look again anyway.
"""

import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from phitune_operator import metadata_list
from phitune_operator.kinds import POD, Kind, Object
from phitune_operator.metrics import Metrics
from phitune_operator.names import MANAGER

REQUEST_TIMEOUT = 30.0
"""Seconds that one call may take."""
LIST_PAGE = 500
"""Objects in one answer to a LIST."""
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


METHODS = {"get": "GET", "list": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}
"""HTTP's word for Kubernetes' verb."""


class ApiError(Exception):
    """The API server refused a call, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{message} ({status} {reason})" if status else message)
        self.status = status
        self.reason = reason
        """Kubernetes's word: NotFound, AlreadyExists, Conflict, Forbidden, Invalid ..."""
        self.message = message

    @property
    def already_exists(self) -> bool:
        """There is an object of that name."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """The object has changed since it was read, or its uid is another."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def not_found(self) -> bool:
        """There is no such object, or no such kind."""
        return self.status == 404

    @property
    def is_refusal(self) -> bool:
        """The request itself is not admitted: sending it again soon will not help."""
        is_too_large = "request is too large" in self.message  # etcd's word, which comes as a 500
        return self.status in (400, 403, 413, 422) or is_too_large


class Kube:
    """A connection to the API server. Close it when done."""

    def __init__(self, api: client.ApiClient, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics

    @classmethod
    async def connect(cls, metrics: Metrics) -> "Kube":
        """Connect with the pod's service account or, outside of a cluster, with KUBECONFIG."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        # As kopf's watches do: a proxy for the hub is none for the API server, and asking the environment and
        # ~/.netrc anew at each call costs two threads' turns.
        settings.client_session_kwargs = {"trust_env": False}
        api = client.ApiClient(settings)
        api.user_agent = MANAGER
        return cls(api, metrics)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return the object, or None if there is none of that name."""
        try:
            return await self._json("get", kind.path(namespace, name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        is_metadata: bool = False,
    ) -> AsyncIterator[Sequence[Object]]:
        """Give every object that the selectors match, page by page: who keeps none needs memory for one.

        With `is_metadata`, objects have nothing but what tells of metadata whose they are and how old: they
        cost the API server and us a fraction.
        """
        query = {"limit": str(LIST_PAGE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        accept, read = (metadata_list.CONTENT_TYPE, metadata_list.read) if is_metadata else (JSON, json.loads)
        while True:
            path = f"{kind.path(namespace)}?{urlencode(query)}"
            page: Object = read(await self._request("list", path, accept=accept))
            token = (page.get("metadata") or {}).get("continue")
            yield page.pop("items", None) or []
            if not token:
                return
            query["continue"] = token

    async def serves(self, kind: Kind) -> bool:
        """Return whether the API server has the kind."""
        try:
            group = await self._json("get", f"/apis/{kind.group}/{kind.version}")
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return any(resource["name"] == kind.plural for resource in group.get("resources") or [])

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """Return every object that the selectors match."""
        pages = self.pages(kind, namespace, labels=labels, fields=fields)
        return [obj async for page in pages for obj in page]

    async def create(self, kind: Kind, obj: Object) -> Object:
        """Create the object; fails with `already_exists` rather than touch one that is there."""
        path = f"{kind.path(obj['metadata']['namespace'])}?{urlencode({'fieldManager': MANAGER})}"
        return await self._json("create", path, obj)

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        """Merge the patch into the object; with a resourceVersion in it, only into that version."""
        path = f"{kind.path(namespace, name, subresource)}?{urlencode({'fieldManager': MANAGER})}"
        return await self._json("patch", path, patch, content_type=MERGE_PATCH)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, grace: int | None = None
    ) -> None:
        """Delete the object with this uid, its dependents after it; nothing happens if it is gone.

        `grace`: seconds that a pod gets to end; None: what its spec says.
        """
        options: Object = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self._json("delete", kind.path(namespace, name), options)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise

    async def pod_log(self, namespace: str, name: str, container: str, *, lines: int) -> str:
        """Return the last lines that the container wrote."""
        query = urlencode({"container": container, "tailLines": lines, "limitBytes": 64 * 1024})
        data = await self._request("get", f"{POD.path(namespace, name, 'log')}?{query}")
        return data.decode("utf-8", errors="replace")

    async def _json(
        self,
        verb: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = JSON,
    ) -> Object:
        answer: Object = json.loads(await self._request(verb, path, body, content_type=content_type))
        return answer

    async def _request(
        self, verb: str, path: str, body: Any = None, *, content_type: str = JSON, accept: str = JSON
    ) -> bytes:
        began, status = time.monotonic(), 0
        try:
            status, data = await self._send(METHODS[verb], path, body, content_type, accept)
        finally:
            self._metrics.requested(verb, status, time.monotonic() - began)
        if not 200 <= status < 300:
            raise _error_of(status, data)
        return data

    async def _send(
        self, method: str, path: str, body: Any, content_type: str, accept: str
    ) -> tuple[int, bytes]:
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            # Not the body, which it would copy, value by value: ours is made of plain dicts.
            method, url, headers, _, _ = await self._api.param_serialize(
                method, path, header_params=headers, auth_settings=["BearerToken"]
            )
            response = await self._api.call_api(method, url, headers, body, _request_timeout=REQUEST_TIMEOUT)
            data: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"the API server did not answer: {error!r}") from error
        return response.status, data


def _error_of(status: int, data: bytes) -> ApiError:
    try:
        answer = json.loads(data)
        return ApiError(status, str(answer.get("reason", "")), str(answer.get("message", "")))
    except (ValueError, AttributeError):
        return ApiError(status, "", data[:500].decode("utf-8", errors="replace"))

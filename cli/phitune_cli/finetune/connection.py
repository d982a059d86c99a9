"""The cluster as kubectl would choose it, and a few verbs on plain dicts; every call has a time limit."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from phitune_cli.finetune.problems import (
    ConnectionLost,
    NoAnswer,
    NotAllowed,
    Problem,
    WrongInput,
)
from phitune_operator.kinds import FINETUNEJOB, POD, Kind, Object

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

CONNECT_SECONDS: Final = 5.0
"""How long a connection may take: a cluster that is not there is to be known at once."""
ANSWER_SECONDS: Final = 30.0
"""How long an answer may take."""
SILENT_SECONDS: Final = 300.0
"""How long a log that is followed may give nothing before the connection is taken for dead."""
_PAGE: Final = 500
_CONNECTIONS: Final = 256
"""That are kept open: the log of each pod of a gang is one."""
_OF_AUTHORISER: Final = re.compile(r'User ".*" cannot \S+ (resource|path) "', re.DOTALL)
"""In what the API server says for want of a right. Quotas, limits and policies say `is forbidden` too."""


@dataclass(frozen=True)
class Target:
    """Which cluster and namespace, as the options say it; None: as the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


class Cluster:
    """A connection to the API server; `namespace` is where the user works."""

    def __init__(self, api: "ApiClient", namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    @classmethod
    def connect(cls, target: Target) -> "Cluster":
        """Read the kubeconfig. WrongInput where there is none; nothing is asked of the cluster yet."""
        import yaml
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=target.kubeconfig, context=target.context, client_configuration=settings
            )
            contexts, active = config.list_kube_config_contexts(target.kubeconfig)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            if missing := _missing(target.kubeconfig or os.environ.get("KUBECONFIG", "")):
                raise WrongInput(f"the kubeconfig {missing}: there is no such file") from error
            why = str(error).rstrip(".")
            raise WrongInput(
                f"no cluster is chosen: {why}; set KUBECONFIG, or name a file with --kubeconfig"
            ) from error
        except (OSError, yaml.YAMLError, TypeError, AttributeError, KeyError, ValueError) as error:
            raise WrongInput(f"the kubeconfig cannot be read: {error}; try `kubectl config view`") from error
        if target.context is not None:
            active = next(one for one in contexts if one["name"] == target.context)
        settings.retries = False
        settings.connection_pool_maxsize = _CONNECTIONS
        namespace = target.namespace or active["context"].get("namespace") or "default"
        return cls(client.ApiClient(settings), namespace)

    def get(self, kind: Kind, name: str) -> Object | None:
        """Return the object, or None if there is none of that name."""
        status, data = self._send("GET", kind.path(self.namespace, name))
        if status == 404 and _reason(data) == "NotFound":
            return None
        return _object(status, data)

    def job(self, name: str) -> Object:
        """Return the FineTuneJob. WrongInput names those that there are."""
        found = self.get(FINETUNEJOB, name)
        if found is None:
            known = ", ".join(one["metadata"]["name"] for one in self.list(FINETUNEJOB)) or "none"
            raise WrongInput(f"no FineTuneJob {name} in namespace {self.namespace}; there are: {known}")
        return found

    def list(self, kind: Kind, labels: str = "", *, everywhere: bool = False) -> list[Object]:
        """Return every object of a kind that the selector matches, in the namespace or everywhere."""
        query = {"limit": str(_PAGE)} | ({"labelSelector": labels} if labels else {})
        path = kind.path(None if everywhere else self.namespace)
        objects: list[Object] = []
        while True:
            page = _object(*self._send("GET", f"{path}?{urlencode(query)}"))
            objects += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return objects
            query["continue"] = token

    def create(self, kind: Kind, obj: Object, *, dry_run: bool = False) -> Object:
        """Create the object in the namespace. WrongInput with the API server's words where it refuses."""
        query = "?" + urlencode({"dryRun": "All"}) if dry_run else ""
        return _object(*self._send("POST", kind.path(self.namespace) + query, obj))

    def merge(self, kind: Kind, name: str, patch: Object) -> Object:
        """Merge the patch into the object."""
        path = kind.path(self.namespace, name)
        return _object(*self._send("PATCH", path, patch, content_type="application/merge-patch+json"))

    def delete(self, kind: Kind, name: str, *, grace_seconds: int) -> None:
        """Delete the object; nothing happens if it is gone."""
        path = f"{kind.path(self.namespace, name)}?{urlencode({'gracePeriodSeconds': grace_seconds})}"
        status, data = self._send("DELETE", path)
        if status != 404:
            _object(status, data)

    @contextmanager
    def pod_log(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: str | None = None,
    ) -> Iterator[Iterator[str]]:
        """Within this block, the lines that the container has written, each behind its time.

        `since`: the time of the first, where the earlier ones are not wanted.
        """
        query = {"container": container, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        query |= {"sinceTime": since} if since is not None else {}
        answer = self._open(
            "GET", f"{POD.path(self.namespace, pod, 'log')}?{urlencode(query)}", follow=follow
        )
        try:
            if answer.status != 200:
                raise _problem(answer.status, self._read(answer))
            yield _lines(answer)
        finally:
            answer.close()

    def execute(self, pod: str, container: str, command: Sequence[str]) -> Any:
        """Run a command in a container; the WebSocket of its standard input and outputs."""
        from kubernetes.client import ApiException, CoreV1Api
        from kubernetes.stream import stream
        from websocket import WebSocketBadStatusException, setdefaulttimeout

        setdefaulttimeout(ANSWER_SECONDS)
        try:
            opened = stream(
                CoreV1Api(self.api).connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                container=container,
                command=list(command),
                stdin=True,
                stdout=True,
                stderr=True,
                tty=False,
                binary=True,
                _preload_content=False,
            )
        except ApiException as error:
            cause = error.__context__
            if isinstance(cause, KeyboardInterrupt):  # the library takes it for a failure
                raise cause from None
            if isinstance(cause, WebSocketBadStatusException):
                message = (cause.resp_body or b"").decode("utf-8", "replace") or str(cause)
                raise _problem(cause.status_code, message.encode()) from error
            raise ConnectionLost(f"no connection to the pod {pod}: {error.reason}") from error
        return opened.sock

    def _send(
        self, method: str, path: str, body: Object | None = None, *, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        answer = self._open(method, path, body, content_type=content_type)
        try:
            return answer.status, self._read(answer)
        finally:
            answer.close()

    def _read(self, answer: Any) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            data: bytes = answer.read()
            return data
        except (HTTPError, OSError) as error:
            raise self._no_answer(error) from error

    def _open(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        follow: bool = False,
    ) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "Content-Type": content_type}
        prepared = self.api.param_serialize(
            method, path, header_params=headers, auth_settings=["BearerToken"], body=body
        )
        try:
            limits = (CONNECT_SECONDS, SILENT_SECONDS if follow else ANSWER_SECONDS)
            return self.api.call_api(*prepared, _request_timeout=limits).response
        except (HTTPError, ApiException, OSError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> NoAnswer:
        why = getattr(error, "reason", None) or error
        return NoAnswer(
            f"the cluster at {self.api.configuration.host} does not answer: {why}\n"
            "check `kubectl cluster-info`, and which one it is: kubectl config current-context"
        )


def _missing(kubeconfig: str) -> str:
    """The files so named, if none of them is there. One that is makes up for the others, as for kubectl."""
    files = [file for file in kubeconfig.split(os.pathsep) if file]
    return "" if any(os.path.exists(os.path.expanduser(file)) for file in files) else ", ".join(files)


def _lines(answer: Any) -> Iterator[str]:
    from urllib3.exceptions import HTTPError

    try:
        pending = b""
        for piece in answer.stream(2**16, decode_content=True):
            *lines, pending = (pending + piece).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        if pending:
            yield pending.decode("utf-8", "replace")
    except (HTTPError, OSError) as error:
        raise ConnectionLost(f"the log broke off: {error}") from error


def _object(status: int, data: bytes) -> Object:
    if not 200 <= status < 300:
        raise _problem(status, data)
    found: Object = json.loads(data)
    return found


def _reason(data: bytes) -> str:
    return str(_answer(data).get("reason", ""))


def _answer(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _problem(status: int, data: bytes) -> Problem:
    """What an answer other than yes means to the user."""
    answer = _answer(data)
    message = str(answer.get("message") or data[:500].decode("utf-8", "replace") or f"HTTP status {status}")
    if status == 401:
        return NotAllowed("the cluster does not know this user: log in again, or choose another --context")
    if status == 403 and _OF_AUTHORISER.search(message):
        return NotAllowed(f"{message}; docs/command-line.md lists the rights that each command needs")
    if "could not find the requested resource" in message or (status == 404 and not answer):
        return WrongInput("the cluster has no FineTuneJobs: install the chart charts/phitune first")
    if status in (400, 403, 404, 409, 422):
        return WrongInput(message)
    return NoAnswer(f"the API server says: {message} (HTTP status {status})")

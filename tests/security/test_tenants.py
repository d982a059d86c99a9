"""A tenant who may do no more than write FineTuneJobs, in a namespace where no Pod Security helps us.

Three jobs run side by side, once. The tenant's own code runs in their pods, from a module that Python imports
at its start, and looks for what it could get at; what it found lies on the tenant's volume.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from harness.canaries import canary, told
from harness.cluster import OPERATOR_NAMESPACE, Cluster, CommandError, Object
from harness.installed import RELEASE, Installed
from harness.jobs import finetunejob, merged
from harness.lab import Lab

pytestmark = pytest.mark.timeout(600)

ROLES = [f"phitune-system-{RELEASE}-{kind}" for kind in ("view", "edit")]
"""What the chart lets the holders of the cluster's role `edit` do."""
EVIL = "<img src=x onerror=alert(1)>$(touch pwned)`touch pwned`{{7*7}}';\"\u202e"
"""A folder of data, as a tenant may well name it."""
ACTS = "\x1b[2J\x9b2J\u202e"
"""What clears a terminal, in two ways, and what turns the direction of writing."""
ACTING = {"\x1b", "\x9b", "\u202e"}
SPELLED_OUT = r"\x1b[2J\x9b2J\u202e"
TOKEN, VARIABLE = canary("token"), canary("variable")
ANNOTATION = "\x1b[2J<script>{{7*7}}"
FAKE_HUB = "http://127.0.0.1:8999"
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())"

SPY = r"""
import http.server, json, os, pathlib, socket, ssl, threading, urllib.error, urllib.request

ACTS = "\x1b[2J\x9b2J\u202e"

def tried(what):
    try:
        return repr(what())
    except BaseException as problem:
        return f"{type(problem).__name__}: {problem}"

def asked(path):
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    trusting = ssl._create_unverified_context()
    try:
        return urllib.request.urlopen(f"https://{host}:{port}{path}", timeout=2, context=trusting).status
    except urllib.error.HTTPError as answer:
        return answer.code
    except OSError:
        return 0

class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        words = json.dumps({"error": "not for you" + ACTS}).encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        self.wfile.write(words)
    def log_message(self, *_):
        pass

def look():
    file = pathlib.Path("/workspace/found") / socket.gethostname()
    try:
        file.parent.mkdir(exist_ok=True)
        opened = file.open("x")
    except OSError:
        return
    if os.environ.get("HF_ENDPOINT"):
        hub = http.server.HTTPServer(("127.0.0.1", 8999), Hub)
        threading.Thread(target=hub.serve_forever, daemon=True).start()
    lines = open("/proc/self/status").read().splitlines()
    about = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    found = {
        "user": [os.getuid(), os.getgid()],
        "status": {name: about[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")},
        "root": tried(lambda: os.setuid(0)),
        "write": {path: tried(lambda: open(path, "w")) for path in ("/mine", "/etc/mine", "/usr/mine")},
        "mount": tried(lambda: os.listdir("/var/lib/kubelet")),
        "credentials": tried(lambda: os.listdir("/var/run/secrets/kubernetes.io/serviceaccount")),
        "mounts": [line.split()[4] for line in open("/proc/self/mountinfo")],
        "api": {path: asked(path) for path in ("/api/v1/secrets", "/api/v1/namespaces/kube-system/pods",
                "/apis/phitune.dev/v1alpha1/finetunejobs")},
        "environment": dict(os.environ),
    }
    with opened:
        json.dump(found, opened)

look()
if "PHITUNE_LAUNCHER" in os.environ:  # in a rank; what process 1 prints, nobody is there to spell out
    print("words of a rank" + ACTS, flush=True)
"""
DATA = """
import json, pathlib
from PIL import Image
spy, evil = {spy!r}, {evil!r}
own = pathlib.Path("/workspace/own"); own.mkdir()
(own / "sitecustomize.py").write_text(spy)
data = pathlib.Path("/workspace/data") / evil
(data / "images").mkdir(parents=True)
Image.new("RGB", (28, 28), "white").save(data / "images/<b>.png")
turn = {{"images": ["<b>.png"], "user": "<script>alert(2)</script>" + {acts!r}, "assistant": "white"}}
line = json.dumps({{"conversations": [turn]}}) + "\\n"
(data / "train.jsonl").write_text(line * 4)
(data / "eval.jsonl").write_text(line)
"""
SEARCH = """
import json, pathlib
found, hits, searched = {{}}, [], []
for path in pathlib.Path("/workspace").rglob("*"):
    if path.is_file() and path.parts[2] not in ("own", "found"):
        content = str(path).encode() + path.read_bytes()
        searched.append(str(path))
        hits += [f"{{word}} in {{path}}" for word in {words!r} if word.encode() in content]
        if path.name == "pwned":
            hits.append(str(path))
pages = [path.read_text() for path in pathlib.Path("/workspace/runs").rglob("report.html")]
for path in pathlib.Path("/workspace/found").iterdir():
    found[path.name] = json.loads(path.read_text())
print(json.dumps({{"found": found, "hits": hits, "searched": searched, "pages": pages}}))
"""


@dataclass(frozen=True)
class Tenant:
    """Somebody with a namespace, a volume, and the right to write FineTuneJobs."""

    lab: Lab
    account: str

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl as the tenant. CommandError where it is refused."""
        return self.lab.cluster.kubectl(*args, "-n", self.lab.namespace, "--as", self.account, stdin=stdin)

    def apply(self, job: Object, *options: str) -> str:
        """Apply a FineTuneJob as the tenant; what the API server made of it."""
        return self.kubectl("apply", "-o", "json", *options, "-f", "-", stdin=json.dumps(job))


@pytest.fixture(scope="module")
def tenant(phitune: Installed) -> Iterator[Tenant]:
    cluster: Cluster = phitune.cluster
    name = f"tenant-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    try:
        cluster.kubectl("create", "serviceaccount", "tenant", "-n", name)
        for role in ROLES:
            bound = ("--clusterrole", role, "--serviceaccount", f"{name}:tenant")
            cluster.kubectl("create", "rolebinding", role, "-n", name, *bound)
        lab = Lab(cluster, name, phitune.trainer_image)
        yield Tenant(lab, f"system:serviceaccount:{name}:tenant")
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false")


@dataclass(frozen=True)
class Ended:
    """What is left of the tenant's jobs."""

    found: list[Object]
    """What the tenant's code saw, a pod each."""
    hits: list[str]
    """Files of the volume that hold what they must not hold, or must not be there."""
    searched: list[str]
    """Files of the volume that were looked into."""
    pages: list[str]
    """The reports."""
    told: str
    """Statuses of the jobs, and Events."""
    logs: str
    """Of the pods, and of the operator; its metrics too."""
    pods: str
    """Statuses of the pods, with the last words of each: JSON, for the operator."""
    configs: str
    """What the training's pods read."""

    @property
    def said(self) -> str:
        """All that was said to anybody."""
        return f"{self.told}\n{self.logs}\n{self.pods}"


def one_pod(name: str, spec: Object) -> Object:
    base = {
        "resources": {"nodes": 1},
        "storage": {"size": None, "claimName": "mine"},
        "env": [
            {"name": "PYTHONPATH", "value": "/workspace/own:/opt/phitune"},
            {"name": "CANARY", "value": VARIABLE},
        ],
    }
    return finetunejob(name, merged(base, spec))


@pytest.fixture(scope="module")
def ended(tenant: Tenant) -> Ended:
    """The jobs, started at once and waited for."""
    lab = tenant.lab
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hub"},
        "stringData": {"HF_TOKEN": TOKEN},
    }
    of_account = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "deployer", "annotations": {"kubernetes.io/service-account.name": "default"}},
    }
    # Large enough for a model of the hub, which the job that fetches never gets.
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "mine"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Ti"}}},
    }
    lab.apply(secret, of_account, volume)
    lab.on_claim("mine", DATA.format(spy=SPY, evil=EVIL, acts=ACTS))

    own_data = {
        "data": {"generate": None, "path": f"data/{EVIL}", "eval": "eval.jsonl"},
        "training": {"maxSteps": 2},
        "evaluation": {"enabled": True},
        "export": {"merged": True},
    }
    noisy = {"podTemplate": {"annotations": {"example.com/a": ANNOTATION}}}
    hub = {"model": {"init": None, "name": "team/private"}}
    named = [*one_pod("x", {})["spec"]["env"], {"name": "HF_ENDPOINT", "value": FAKE_HUB}]
    tenant.apply(one_pod("spy", merged(own_data, noisy)))
    tenant.apply(one_pod("fetch", merged(hub, {"model": {"tokenSecret": "hub"}, "env": named})))
    tenant.apply(one_pod("steal", merged(hub, {"model": {"tokenSecret": "deployer"}})))

    lab.wait_for_phase("fetch", "Failed")
    lab.wait("word about the secret", lambda: lab.condition("steal", "Prepared").get("reason") == "NoSecret")
    lab.wait_for_phase("spy", "Succeeded", timeout=300)
    jobs = [lab.status(name) for name in ("spy", "fetch", "steal")]
    pods = lab.cluster.list("pods", lab.namespace)
    logged = logs(lab, pods)
    on_volume = json.loads(lab.on_claim("mine", SEARCH.format(words=[TOKEN, VARIABLE])))
    return Ended(
        found=list(on_volume["found"].values()),
        hits=on_volume["hits"],
        searched=on_volume["searched"],
        pages=on_volume["pages"],
        told=texts([jobs, lab.cluster.list("events", lab.namespace)]),
        logs=logged,
        pods=texts([pod["status"] for pod in pods]),
        configs=texts(lab.cluster.list("configmaps", lab.namespace)),
    )


def texts(value: Any) -> str:
    """Every text in an object as it is, a line or more each: JSON would spell out what acts."""
    if isinstance(value, dict):
        return texts([*value, *value.values()])
    return "\n".join(map(texts, value)) if isinstance(value, list) else str(value)


def logs(lab: Lab, pods: list[Object]) -> str:
    """What pods that have begun, and the operator, have logged, and its metrics."""
    begun = [
        pod
        for pod in pods
        if (containers := pod["status"].get("containerStatuses"))
        and not any("waiting" in one["state"] for one in containers)
    ]
    of_pods = [lab.cluster.kubectl("logs", pod["metadata"]["name"], "-n", lab.namespace) for pod in begun]
    operator = ("-n", OPERATOR_NAMESPACE, f"deployment/{RELEASE}")
    metrics = lab.cluster.kubectl("exec", *operator, "--", "python3", "-c", METRICS)
    assert "phitune_operator_queue_depth" in metrics
    return "\n".join([metrics, *of_pods, lab.cluster.operator_log()])


def test_tenant_may_write_jobs_and_nothing_else(tenant: Tenant) -> None:
    def may(verb: str, what: str, *options: str) -> bool:
        with contextlib.suppress(CommandError):  # that is how it says no
            return tenant.kubectl("auth", "can-i", verb, what, *options).strip() == "yes"
        return False

    assert may("create", "finetunejobs")
    assert may("delete", "finetunejobs")
    for verb, what in (
        ("get", "secrets"),
        ("create", "pods"),
        ("create", "pytorchjobs"),
        ("create", "jobs"),
        ("get", "pods/log"),
        ("delete", "networkpolicies"),
        ("impersonate", "serviceaccounts"),
    ):
        assert not may(verb, what), (verb, what)
    assert not may("patch", "finetunejobs", "--subresource", "status")
    assert not may("list", "finetunejobs", "--all-namespaces")


WISHES = {
    "a service account": {"podTemplate": {"serviceAccountName": "default"}},
    "credentials": {"podTemplate": {"automountServiceAccountToken": True}},
    "root": {"podTemplate": {"securityContext": {"runAsUser": 0}}},
    "a privileged container": {"podTemplate": {"containers": [{"securityContext": {"privileged": True}}]}},
    "the node's files": {"podTemplate": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}},
    "the node's network": {"podTemplate": {"hostNetwork": True}},
    "any secret as a variable": {
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}}]
    },
    "a secret's file": {"storage": {"secretName": "hub"}},
}


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_what_a_pod_might_have_asked_for_is_refused_or_dropped(tenant: Tenant, wish: Object) -> None:
    asked = one_pod("wish", wish)
    with pytest.raises(CommandError, match="unknown field"):
        tenant.apply(asked, "--dry-run=server")
    taken = tenant.apply(asked, "--dry-run=server", "--validate=false")
    for word in ("serviceAccountName", "automount", "securityContext", "hostPath", "hostNetwork", "secret"):
        assert word not in json.dumps(json.loads(taken)["spec"])


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"resources": {"priorityClassName": "system-node-critical"}}, "spec.resources.priorityClassName"),
        (
            {
                "podTemplate": {
                    "annotations": {"container.apparmor.security.beta.kubernetes.io/pytorch": "unconfined"}
                }
            },
            "spec.podTemplate.annotations",
        ),
        ({"podTemplate": {"labels": {"phitune.dev/job-uid": "another"}}}, "spec.podTemplate.labels"),
        ({"resumeFrom": "runs/\x9b2J"}, "spec.resumeFrom"),
        ({"storage": {"claimName": "../other/claim"}}, "spec.storage.claimName"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_loosen_or_forge_is_refused_by_its_field(tenant: Tenant, wish: Object, said: str) -> None:
    with pytest.raises(CommandError) as refused:
        tenant.apply(one_pod("wish", wish), "--dry-run=server")
    assert said in refused.value.stderr


def test_code_in_any_pod_is_nobody_and_finds_no_credentials(ended: Ended) -> None:
    assert len(ended.found) == 3, "prepare and training of one job, prepare of the other"
    for seen in ended.found:
        assert seen["user"] == [65532, 65532]
        assert seen["status"] == {
            "CapEff": "0000000000000000",
            "CapBnd": "0000000000000000",
            "NoNewPrivs": "1",
            "Seccomp": "2",
        }
        assert seen["root"].startswith("PermissionError")
        assert all(said.startswith("OSError") or "Permission" in said for said in seen["write"].values())
        assert seen["credentials"].startswith("FileNotFoundError")
        assert seen["mount"].startswith("FileNotFoundError")
        assert not [place for place in seen["mounts"] if place.startswith(("/host", "/var/lib", "/run"))]
        assert set(seen["api"].values()) <= {0, 401, 403}, "0: not even reached"


def test_only_the_pod_that_fetches_has_the_token_and_only_the_one_that_is_named(ended: Ended) -> None:
    tokens = sorted(seen["environment"].get("HF_TOKEN", "none") for seen in ended.found)
    assert tokens == [TOKEN, "none", "none"]


def test_token_of_a_service_account_is_not_to_be_had_by_naming_its_secret(
    tenant: Tenant, ended: Ended
) -> None:
    (pod,) = tenant.lab.pods("steal")
    (container,) = pod["status"]["containerStatuses"]
    assert "waiting" in container["state"]
    assert not container.get("lastState"), "it has never run"


def test_no_secret_and_no_variable_is_told_to_anybody(ended: Ended) -> None:
    assert "not for you" in ended.told, "what the hub said against the token is told"
    assert told([TOKEN, VARIABLE], ended.said) == []
    assert told([TOKEN, VARIABLE], ended.configs) == []


def test_no_variable_is_in_what_a_run_leaves(ended: Ended) -> None:
    """Nor is the token; but its job ends while it fetches. One that goes on needs a hub, and no cluster."""
    for part in ("checkpoints/", "export/", "eval/", "report.html", "metrics.jsonl"):
        assert any(part in path for path in ended.searched), part
    assert ended.hits == []


def test_texts_of_the_tenant_do_nothing_to_a_terminal(ended: Ended) -> None:
    assert "onerror=alert(1)" in ended.logs, "the folder's name is told"
    for said in (f"not for you{SPELLED_OUT}", f"words of a rank{SPELLED_OUT}"):
        assert said in ended.logs
    assert not ACTING & set(ended.told)
    assert not ACTING & set(ended.logs)


def test_texts_of_the_tenant_do_nothing_in_a_browser(ended: Ended) -> None:
    (page,) = ended.pages
    assert f"&lt;script&gt;alert(2)&lt;/script&gt;{SPELLED_OUT}" in page, "the question is shown"
    assert "&lt;img src=x" in page, "and so is the folder's name"
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not ACTING & set(page)


def test_an_annotation_of_the_tenant_is_passed_on_as_it_is(tenant: Tenant, ended: Ended) -> None:
    annotations = [pod["metadata"].get("annotations", {}) for pod in tenant.lab.pods("spy")]
    assert {found.get("example.com/a") for found in annotations} == {ANNOTATION}

"""Where the demo runs: on the local Kubernetes that it starts itself, or on a cluster of the user's."""

import shutil
import sys
from pathlib import Path
from typing import Protocol

from .console import Command, Console, DemoError, run_all
from .images import REPOSITORY, Images, images_of, start_build
from .kubectl import Kubectl

CLUSTER = [sys.executable, str(REPOSITORY / "hack/cluster")]
DEFAULT_STATE = Path("/var/tmp/phitune-cluster/default")  # noqa: S108 (of hack/cluster's default cluster)
NAMESPACE = "phitune-demo"
JOB = "digits"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
TRAINING_OPERATOR = "github.com/kubeflow/training-operator.git/manifests/overlays/standalone?ref=v1.9.4"


class Place(Protocol):
    """A cluster to run the demo on."""

    build_title: str
    start_title: str
    enforces: str
    """Pod Security level that the demo's namespace enforces."""

    def build(self, console: Console) -> Images:
        """Build what is missing of programs and images."""

    def start(self, console: Console, images: Images) -> None:
        """Have a cluster with the training-operator, and our images where its nodes find them."""

    def kubectl(self, namespace: str) -> Kubectl:
        """kubectl on this cluster."""

    def helm(self, *args: str) -> list[str]:
        """A helm command line for this cluster."""

    def volume(self, claim: str) -> str:
        """Where a person finds the files of a claim of the demo's namespace."""

    def try_next(self, command: str) -> str:
        """A kubectl command as a person types it to reach this cluster."""

    def how_to_remove(self) -> str:
        """How to get rid of it all."""

    def tidy_up(self, console: Console) -> None:
        """After an interruption: remove what this run started."""


class LocalCluster:
    """The local Kubernetes of hack/cluster, the one that `make cluster-up` starts."""

    build_title = "Build Kubernetes from its sources, and both images"
    start_title = "Start a Kubernetes of two nodes, and bring the images to them"
    enforces = "restricted"

    def __init__(self, state: Path) -> None:
        self._state = state
        self._of_state = [] if state == DEFAULT_STATE else ["--state", str(state)]
        self._was_there = self._is_there()

    def _is_there(self) -> bool:
        return (self._state / "cluster.json").exists()

    def _hack_cluster(self, command: str, *args: str) -> list[str]:
        return [*CLUSTER, command, *self._of_state, *args]

    def build(self, console: Console) -> Images:
        """Both at once: compiling takes the processors, the images mostly wait for network and disk."""
        cluster = Command(console, [*CLUSTER, "build"], prefix="cluster | ")
        images = start_build(console, prefix="images  | ")
        run_all(console, cluster, images)
        return images_of(images)

    def start(self, console: Console, images: Images) -> None:
        """On a cluster that is up, this only looks whether all is well, and loads what is new."""
        run_all(console, Command(console, self._hack_cluster("up", "--nodes", "2")))
        archives = [images.operator.archive, images.trainer.archive]
        run_all(console, Command(console, self._hack_cluster("load", *archives)))

    def kubectl(self, namespace: str) -> Kubectl:
        """kubectl as built here."""
        return Kubectl([str(self._state / "bin/kubectl")], str(self._state / "kubeconfig"), namespace)

    def helm(self, *args: str) -> list[str]:
        """Helm as built here."""
        return [str(self._state / "bin/helm"), "--kubeconfig", str(self._state / "kubeconfig"), *args]

    def volume(self, claim: str) -> str:
        """Behind every volume of the local cluster is a folder of this machine."""
        kubectl = self.kubectl(NAMESPACE)
        volume = kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
        return kubectl("get", "pv", volume, "-o", "jsonpath={.spec.hostPath.path}")

    def try_next(self, command: str) -> str:
        """Needs neither KUBECONFIG nor kubectl on the PATH."""
        return " ".join(["python3 hack/cluster kubectl", *self._of_state, command])

    def how_to_remove(self) -> str:
        """One command."""
        return (
            " ".join(["python3 hack/cluster down", *self._of_state])
            if self._of_state
            else "make cluster-down"
        )

    def tidy_up(self, console: Console) -> None:
        """Take the cluster away, unless it was there before this run."""
        if not self._was_there:
            run_all(console, Command(console, self._hack_cluster("down")))
            return
        if not self._is_there():
            return  # it was, and somebody has taken it away since
        console.say(f"The cluster was up before this run and stays; to take it away: {self.how_to_remove()}")
        abandon_job(self.kubectl(NAMESPACE), console)


class OwnCluster:
    """A cluster of the user's, and a registry that its nodes can pull from."""

    build_title = "Build both images and push them"
    start_title = "See to the training-operator"
    # The init container that an unchanged training-operator adds is not admitted under `restricted`.
    enforces = "baseline"

    def __init__(self, kubeconfig: str, registry: str) -> None:
        self._kubeconfig = kubeconfig
        self._registry = registry

    def build(self, console: Console) -> Images:
        """The images alone, once it is clear that the cluster can run them."""
        for program in ("kubectl", "helm"):
            if not shutil.which(program):
                raise DemoError(f"{program} is not on the PATH; the demo on your own cluster needs yours")
        self._check_storage()
        images = start_build(console, "--push", self._registry)
        run_all(console, images)
        return images_of(images)

    def _check_storage(self) -> None:
        found = self.kubectl(NAMESPACE).get("storageclasses")
        classes = [known["metadata"] for known in found["items"]] if found else []
        if not any((known.get("annotations") or {}).get(DEFAULT_CLASS) == "true" for known in classes):
            names = ", ".join(known["name"] for known in classes) or "none at all"
            raise DemoError(
                "the cluster has no default storage class, and the demo's volume names none. Mark one that "
                f"offers ReadWriteMany volumes with the annotation {DEFAULT_CLASS}: there are {names}"
            )

    def start(self, console: Console, images: Images) -> None:
        """Install the training-operator where its CRD is missing, from its own project's manifests."""
        kubectl = self.kubectl("kubeflow")
        console.relay(f"the images are {images.operator.reference} and {images.trainer.reference}")
        if kubectl.get("crd", "pytorchjobs.kubeflow.org"):
            console.relay("the CRD pytorchjobs.kubeflow.org is there: the training-operator is left as it is")
            return
        console.relay(f"$ kubectl apply --server-side --kustomize '{TRAINING_OPERATOR}'")
        try:
            for argv in (
                ["apply", "--server-side", "--kustomize", TRAINING_OPERATOR],
                ["rollout", "status", "deployment/training-operator", "--timeout", "3m"],
            ):
                run_all(console, Command(console, kubectl.argv(*argv)))
        except DemoError as problem:
            raise DemoError(
                "the cluster has no PyTorchJob (CRD pytorchjobs.kubeflow.org), and Kubeflow's "
                "training-operator 1.9 could not be installed from its project on GitHub, which takes git "
                f"and network; why is above. Install it in your own way, then run this again\n{problem}"
            ) from problem

    def kubectl(self, namespace: str) -> Kubectl:
        """The user's kubectl."""
        return Kubectl(["kubectl"], self._kubeconfig, namespace)

    def helm(self, *args: str) -> list[str]:
        """The user's helm."""
        return ["helm", "--kubeconfig", self._kubeconfig, *args]

    def volume(self, claim: str) -> str:
        """Only the cluster knows where that is."""
        return f"claim {claim} in namespace {NAMESPACE}"

    def try_next(self, command: str) -> str:
        """With the KUBECONFIG of the demo."""
        return f"kubectl --kubeconfig {self._kubeconfig} {command}"

    def how_to_remove(self) -> str:
        """Two commands; the CRD stays, and so does the training-operator."""
        of_cluster = f"--kubeconfig {self._kubeconfig}"
        return (
            f"kubectl {of_cluster} delete namespace {NAMESPACE} && "
            f"helm {of_cluster} uninstall phitune -n phitune-system"
        )

    def tidy_up(self, console: Console) -> None:
        """Delete the job; what else was installed does no harm."""
        abandon_job(self.kubectl(NAMESPACE), console)
        console.say(f"To take away the rest: {self.how_to_remove()}")


def abandon_job(kubectl: Kubectl, console: Console) -> None:
    """Delete the job without waiting, if it got so far and the cluster still answers."""
    try:
        if kubectl.get("crd", "finetunejobs.phitune.dev", "--request-timeout=10s") is None:
            return
        kubectl("delete", "finetunejob", JOB, "--ignore-not-found", "--wait=false", "--request-timeout=10s")
    except DemoError as problem:
        console.say(str(problem))

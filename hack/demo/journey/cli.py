"""The order of things: build, start, install, fine-tune, and what came of it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .console import INDENT, Command, Console, DemoError, minutes, run_all
from .images import REPOSITORY, Images
from .kubectl import Kubectl
from .places import DEFAULT_STATE, JOB, NAMESPACE, LocalCluster, OwnCluster, Place
from .signals import Interrupted, ignore_signals, raise_on_signals
from .watch import Watch

OPERATOR_NAMESPACE = "phitune-system"
EXAMPLE = Path("examples/digits.yaml")
WANTED_SCORE = 0.90
NUM_PHASES = 5
ENDED = ("Succeeded", "Failed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo: 0 if the job reached WANTED_SCORE, 1 if not, 2 if asked wrongly, 130 if interrupted."""
    options = parser().parse_args(arguments)
    if options.registry and not options.kubeconfig:
        print("error: REGISTRY without KUBECONFIG; your own cluster takes both", file=sys.stderr)
        return 2
    if options.registry and not Path(options.kubeconfig).is_file():
        print(f"error: KUBECONFIG: there is no file {options.kubeconfig}", file=sys.stderr)
        return 2
    os.chdir(REPOSITORY)
    console = Console(log_file(options), 1 if options.build_only else NUM_PHASES)
    place = choose_place(options, console)
    raise_on_signals()
    try:
        if options.build_only:
            build(console, place)
        else:
            journey(console, place)
    except DemoError as problem:
        console.say(f"\nThe {'build' if options.build_only else 'demo'} failed: {problem}")
        console.say(f"Run it again to go on from there. To remove what it started: {place.how_to_remove()}")
        return 1
    except Interrupted as signal:
        ignore_signals()
        console.say(f"\n{signal}: tidying up what this run started")
        console.stop_commands()
        place.tidy_up(console)
        console.say("What was built is kept: the next `make demo` goes on from there.")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The Makefile passes KUBECONFIG and REGISTRY by the environment."""
    made = argparse.ArgumentParser(prog="hack/demo", description=__doc__)
    made.add_argument(
        "--registry",
        default=os.environ.get("REGISTRY"),
        help="push the images here, and run on the cluster of --kubeconfig (default: $REGISTRY)",
    )
    made.add_argument(
        "--kubeconfig",
        default=os.environ.get("KUBECONFIG"),
        help="your own cluster; only together with --registry (default: $KUBECONFIG)",
    )
    made.add_argument(
        "--state",
        type=Path,
        default=DEFAULT_STATE,
        help="folder of the local cluster; each is another cluster (default: %(default)s)",
    )
    made.add_argument(
        "--build-only", action="store_true", help="build what the demo needs, then stop: nothing is started"
    )
    return made


def log_file(options: argparse.Namespace) -> Path:
    """Where all output is kept as well. Demos that run at the same time have another folder each."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phitune"
    if options.build_only:
        return cache / "build.log"
    is_default = options.state == DEFAULT_STATE or options.registry
    return cache / ("demo.log" if is_default else f"demo-{options.state.name}.log")


def choose_place(options: argparse.Namespace, console: Console) -> Place:
    """The user's cluster if a registry is named, else the local one: a KUBECONFIG alone is set by habit."""
    if options.registry:
        return OwnCluster(options.kubeconfig, options.registry)
    if options.kubeconfig:
        console.say("KUBECONFIG is set and REGISTRY is not: that cluster is left alone, a local one is used.")
    return LocalCluster(options.state)


def build(console: Console, place: Place) -> Images:
    """The first phase: what takes long once, and nothing that runs."""
    with console.phase(place.build_title):
        return place.build(console)


def journey(console: Console, place: Place) -> None:
    """All phases, and what came of them."""
    images = build(console, place)
    with console.phase(place.start_title):
        place.start(console, images)
    with console.phase("Install the operator with Helm"):
        install(console, place, images)
    kubectl = place.kubectl(NAMESPACE)
    start_job(console, place, kubectl)
    with Watch(console, kubectl, JOB) as watch:
        with console.phase("Prepare: a base model and a data set of real pictures, on the volume"):
            watch.until("Running", "Evaluating", *ENDED)
        with console.phase("Fine-tune on two nodes, and score"):
            job = watch.until(*ENDED)
    tell_score(console, job)
    tell_rest(console, place, job["status"]["artifacts"])


def install(console: Console, place: Place, images: Images) -> None:
    """The chart, in a namespace that enforces Pod Security `restricted`."""
    place.kubectl(OPERATOR_NAMESPACE).apply(namespace(OPERATOR_NAMESPACE, "restricted"))
    values = {
        "image.repository": images.operator.repository,
        "image.tag": images.operator.tag,
        "trainer.image": images.trainer.reference,
    }
    chosen = [part for name, value in values.items() for part in ("--set-string", f"{name}={value}")]
    install = ["upgrade", "--install", "phitune", "charts/phitune", "--namespace", OPERATOR_NAMESPACE]
    console.relay(f"$ helm {' '.join(install)}")
    argv = place.helm(*install, "--wait", "--timeout", "3m", *chosen)
    run_all(console, Command(console, argv, has_result=True))


def start_job(console: Console, place: Place, kubectl: Kubectl) -> None:
    """Apply the example, in place of the job of an earlier run."""
    kubectl.apply(namespace(NAMESPACE, place.enforces))
    if kubectl.get("finetunejob", JOB):
        console.say(f"\nRemoving the FineTuneJob {JOB} of an earlier run; its volume stays.")
        kubectl("delete", "finetunejob", JOB, "--timeout", "120s")
    console.say(f"\n$ kubectl apply --namespace {NAMESPACE} -f {EXAMPLE}")
    console.say(kubectl("apply", "-f", str(EXAMPLE)).strip())


def namespace(name: str, enforces: str) -> dict[str, Any]:
    """A namespace that enforces a Pod Security level."""
    labels = {"pod-security.kubernetes.io/enforce": enforces}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def tell_score(console: Console, job: dict[str, Any]) -> None:
    """The score before and after; DemoError if the job failed or learned too little."""
    status = job["status"]
    if status["phase"] != "Succeeded":
        raise DemoError(f"the job {JOB} failed\n{failure_text(status.get('failure', {}))}")
    score = status["evaluation"]
    console.say(f"\nScore on {score['samples']} held-out digits ({score['metric']})")
    console.say(f"{INDENT}{score.get('baseline', 0):.3f}  before fine-tuning")
    console.say(f"{INDENT}{score['value']:.3f}  after")
    if score["value"] < WANTED_SCORE:
        raise DemoError(f"the score {score['value']:.3f} is below {WANTED_SCORE}; rank 0's log is above")


def failure_text(failure: dict[str, Any]) -> str:
    """What status.failure says, for people."""
    titles = [title for title in ("pod", "node", "exitCode", "reason", "message") if title in failure]
    lines = [f"{INDENT}{title}: {failure[title]}" for title in titles]
    return "\n".join([*lines, *(f"{INDENT}| {line}" for line in failure.get("lastLines", []))])


def tell_rest(console: Console, place: Place, artifacts: dict[str, str]) -> None:
    """Where everything lies, how long it took, and what to try next."""
    console.say(f"\nFiles, on the volume {artifacts['claim']}\n{INDENT}{place.volume(artifacts['claim'])}")
    for title in ("run", "merged"):
        console.say(f"{INDENT}  {title:<7} {artifacts[title]}")

    console.say("\nTimes")
    for title, seconds in console.times:
        console.say(f"{INDENT}{minutes(seconds):>12}  {title}")
    console.say(f"{INDENT}{minutes(sum(seconds for _, seconds in console.times)):>12}  in all")

    console.say("\nTry next")
    for command in (
        f"get ftj -n {NAMESPACE} -o wide",
        f"describe ftj {JOB} -n {NAMESPACE}",
        f"logs -n {NAMESPACE} -l phitune.dev/job={JOB},phitune.dev/rank=0 --tail=-1",
    ):
        console.say(f"{INDENT}{place.try_next(command)}")
    console.say(f"{INDENT}{place.how_to_remove()}")

"""`kubectl finetune logs`: what all ranks of all attempts say, each line with its attempt and rank."""

import argparse
import json
import queue
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Final

from phitune_cli.arguments import HelpFormatter, positive
from phitune_cli.finetune.agent import Agent, Request, connected
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.download import list_folder
from phitune_cli.finetune.log_lines import Line, Source, line_of, merged, source_of
from phitune_cli.finetune.options import add_helper_options, add_job_argument, add_target_options, connect
from phitune_cli.finetune.patience import patiently
from phitune_cli.finetune.problems import ConnectionLost, NotAllowed, Problem, Unreachable, WrongInput
from phitune_cli.finetune.status_screen import is_over
from phitune_cli.finetune.volumes import beside_volume_of, is_running, run_folder, running_pod
from phitune_cli.saying import note
from phitune_operator import names
from phitune_operator.kinds import POD, Object
from phitune_operator.status import condition_of, is_true
from phitune_trainer.exit_codes import DONE

_POLL_SECONDS: Final = 2.0
_LAST_SECONDS: Final = 30.0
"""How long logs that do not end are waited for once the job is over."""
_STARTED: Final = ("Running", "Succeeded", "Failed")
_PIECE: Final = 2**22

_EPILOG: Final = """\
examples:
  kubectl finetune logs receipts                 everything there is
  kubectl finetune logs receipts -f              and what follows
  kubectl finetune logs receipts --tail 20 -f
  kubectl finetune logs receipts --from-volume   every rank of every attempt

[2/8] before a line is attempt 2, rank 8; [prepare] what fetches model and data.
A pod shows its first rank alone: the others' logs are on the volume, as are all
of attempts whose pods are gone. Those are read by a pod of the job that runs;
only with --from-volume is a helper pod made.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `logs` and its options."""
    parser = subparsers.add_parser(
        "logs",
        help="what all ranks say, over all attempts",
        description="Print the logs of a job's pods, each line with its attempt and rank.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    add_job_argument(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job is over, or Ctrl-C")
    parser.add_argument("--tail", type=positive, metavar="N", help="of each pod, only the last N lines")
    parser.add_argument("--from-volume", action="store_true", help="read the logs on the volume instead")
    add_helper_options(parser, default="the job's")
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Print them; 0, or 2 where there is no such job."""
    cluster = connect(args)
    job = cluster.job(args.name)
    if args.from_volume:
        if args.follow or args.tail:
            raise WrongInput("--from-volume prints whole logs as they are: without -f and --tail")
        with beside_volume_of(
            cluster, job, image=args.image, pull_secrets=args.image_pull_secret, say=note
        ) as agent:
            _print_from_volume(agent, job, range(1, _attempt(job) + 1))
        return DONE
    pods = _pods(cluster, job)
    gone = gone_attempts(job, {source.attempt for source, _ in pods})
    if gone and (args.tail is None or not pods):
        _print_gone(cluster, job, gone)
    if args.follow:
        _Follower(cluster, job, args.tail).run()
    elif started := _started(pods):
        _print_pods(cluster, started, args.tail)
    elif pods or not gone:
        note("no pod of the job has started yet; kubectl finetune status says why")
    return DONE


def gone_attempts(job: Object, with_pods: Container[int]) -> list[int]:
    """Attempts whose pods are gone; those of the newest may be yet to come, unless it is over. Pure."""
    newest, status = _attempt(job), job.get("status") or {}
    waits_for_next = is_true(status, names.CONDITION_RESTARTING) or (
        condition_of(status, names.CONDITION_RUNNING).get("reason") == names.REASON_NO_ROOM
    )
    rests = is_over(job) or status.get("phase") == "Suspended"
    ended = newest if rests or waits_for_next else newest - 1
    return [attempt for attempt in range(1, ended + 1) if attempt not in with_pods]


def _attempt(job: Object) -> int:
    return int((job.get("status") or {}).get("attempt") or 0)


def _pods(cluster: Cluster, job: Object) -> list[tuple[Source, Object]]:
    """The job's pods, each with whose log it has or will have."""
    processes = job["spec"].get("resources", {})
    per_node = int(processes.get("gpusPerNode", 1) or processes.get("processesPerNode") or 1)
    found = cluster.list(POD, f"{names.LABEL_JOB_UID}={job['metadata']['uid']}")
    return [(source, pod) for pod in found if (source := source_of(pod, per_node)) is not None]


def _started(pods: Iterable[tuple[Source, Object]]) -> dict[Source, str]:
    """The names of those that have a log."""
    return {source: pod["metadata"]["name"] for source, pod in pods if pod["status"].get("phase") in _STARTED}


def _container(source: Source) -> str:
    return names.PREPARE_CONTAINER if source.attempt == 0 else names.TRAINER_CONTAINER


def _print_pods(cluster: Cluster, pods: Mapping[Source, str], tail: int | None) -> None:
    """Print the logs that can be had; Problem where none can, or the user may see none."""
    with ExitStack() as stack:
        logs, problem = dict[Source, Iterator[str]](), None
        for source, pod in pods.items():
            try:
                logs[source] = stack.enter_context(cluster.pod_log(pod, _container(source), tail=tail))
            except NotAllowed:
                raise
            except Problem as found:  # its node is lost, say: the others may tell why
                problem = found
                note(f"[{source}] no log of pod {pod}: {found}")
        if problem is not None and not logs:
            raise problem
        for line in merged(logs):
            print(line.shown())


def _print_gone(cluster: Cluster, job: Object, gone: list[int]) -> None:
    """Logs of attempts without pods, by a pod that runs; else say where they are."""
    pod = running_pod(cluster, job)
    words = f"attempt {', '.join(map(str, gone))}: the pods are gone"
    if pod is None:
        note(f"{words}; their logs are on the volume, --from-volume reads them with a helper pod")
        return
    try:
        with connected(cluster, pod["metadata"]["name"], names.TRAINER_CONTAINER) as agent:
            _print_from_volume(agent, job, gone)
    except Problem as problem:
        note(f"{words}, and their logs on the volume cannot be read: {problem}")


def _print_from_volume(agent: Agent, job: Object, attempts: "list[int] | range") -> None:
    """What every rank printed, rank by rank: the lines of these files have no times."""
    folder = f"{run_folder(job)}/incarnations"
    files = [file.name for file in list_folder(agent, folder) or []]
    found = {
        start: _attempt_of(agent, f"{folder}/{start}") for start in files if start.endswith("/start.json")
    }
    for start, attempt in found.items():
        if attempt not in attempts:
            continue
        logs = f"{start.removesuffix('start.json')}logs/rank-"
        ranks = [name.removeprefix(logs).removesuffix(".log") for name in files if name.startswith(logs)]
        for rank in sorted(int(rank) for rank in ranks if rank.isdecimal()):
            for text in _text_lines(agent, f"{folder}/{logs}{rank}.log"):
                print(Line("", Source(attempt, rank), text).shown())
    for attempt in sorted(set(attempts) - set(found.values())):
        note(f"attempt {attempt} has left no log on the volume")


def _attempt_of(agent: Agent, start: str) -> int:
    """Which attempt a start of the run belongs to."""
    return int(json.loads(agent.ask("read", start, offset=0, length=2**16).body)["attempt"])


def _text_lines(agent: Agent, path: str) -> Iterator[str]:
    offset, pending = 0, b""
    while True:
        (answer,) = agent.ask_all([Request({"do": "read", "path": path, "offset": offset, "length": _PIECE})])
        if not answer.body:
            break
        offset += len(answer.body)
        *lines, pending = (pending + answer.body).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    if pending:
        yield pending.decode("utf-8", "replace")


class _Follower:
    """Reads the logs of all pods, those that are still to come too, each in a thread of its own."""

    def __init__(self, cluster: Cluster, job: Object, tail: int | None) -> None:
        self._cluster = cluster
        self._job = job
        self._tail = tail
        self._lines: queue.Queue[Line | Problem] = queue.Queue(maxsize=1000)
        self._threads: dict[str, threading.Thread] = {}
        self._is_last = threading.Event()
        self._heard_at = time.monotonic()
        self._said = set[str]()
        """Problems, since the last line that was heard: of many pods many may be the same."""

    def run(self) -> None:
        """Print until the job is over and all its logs are read; Unreachable if nothing answers for long."""
        while True:
            is_last, pods = patiently(self._look, pause=self._print, say=self._say)
            if is_last and not self._is_last.is_set():
                self._heard_at = time.monotonic()
                self._is_last.set()
            for source, pod in sorted(pods.items()):
                if pod not in self._threads:
                    thread = threading.Thread(target=self._read, args=(source, pod), daemon=True)
                    self._threads[pod] = thread
                    thread.start()
            self._print()
            if not self._is_last.is_set() or not self._lines.empty():
                continue
            if not any(thread.is_alive() for thread in self._threads.values()):
                return
            if time.monotonic() - self._heard_at > _LAST_SECONDS:
                note("the job is over, but not every log has come to its end")
                return

    def _look(self) -> tuple[bool, dict[Source, str]]:
        """Whether the job is over, and its pods, asked afterwards: then they will not become more."""
        is_last = is_over(self._cluster.job(self._job["metadata"]["name"]))
        return is_last, _started(_pods(self._cluster, self._job))

    def _say(self, problem: str) -> None:
        if problem not in self._said:
            self._said.add(problem)
            note(problem)

    def _print(self) -> None:
        """Print what comes, for a while: however much it is, a pod that starts has to be noticed."""
        end = time.monotonic() + _POLL_SECONDS
        while (left := end - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                return
            self._heard_at = time.monotonic()
            if isinstance(line, Problem):
                self._say(str(line))
            else:
                self._said.clear()
                print(line.shown(), flush=True)

    def _read(self, source: Source, pod: str) -> None:
        """Read a log to its end; where the connection ends before the pod, go on behind the last line."""
        last, said = None, ""
        while True:
            try:
                for line in self._lines_of(source, pod, last):
                    self._lines.put(line)
                    last, said = line.time, ""
                found = self._cluster.get(POD, pod)
                if found is None or not is_running(found):
                    return
            except ConnectionLost:
                pass  # also that of a rank that has said nothing for long
            except Problem as problem:
                if str(problem) != said:
                    self._lines.put(problem)
                    said = str(problem)
                if not isinstance(problem, Unreachable):
                    return
            if self._is_last.wait(_POLL_SECONDS):
                return

    def _lines_of(self, source: Source, pod: str, last: str | None) -> Iterator[Line]:
        """What the pod says, from behind the line of the time `last`."""
        tail = self._tail if last is None else None
        log = self._cluster.pod_log(pod, _container(source), follow=True, tail=tail, since=last)
        with log as lines:
            for raw in lines:
                line = line_of(source, raw)
                if last is None or line.time > last:
                    last = None  # from here on nothing was read before, whatever the node's clock does
                    yield line

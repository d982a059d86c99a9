"""`kubectl finetune logs`: whose lines they are, and what is said of those that cannot be had."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.answering_cluster import api_server, kubeconfig
from phitune_cli.finetune.log_lines import Source, merged, source_of
from phitune_cli.finetune.logs_cmd import gone_attempts
from phitune_cli.finetune.main import main

INDEX = "batch.kubernetes.io/job-completion-index"


def pod(name: str, phase: str = "Running", index: str | None = None, **labels: str) -> dict[str, Any]:
    """A pod of a job; `index`: as an indexed Job labels it."""
    prefixed = {f"phitune.dev/{key}": value for key, value in labels.items()}
    prefixed |= {INDEX: index} if index is not None else {}
    return {"metadata": {"name": name, "labels": prefixed}, "status": {"phase": phase}}


def trainer(name: str, attempt: int = 1, phase: str = "Running", **labels: str) -> dict[str, Any]:
    return pod(f"receipts-{attempt}-{name}", phase, role="trainer", attempt=str(attempt), **labels)


@pytest.mark.parametrize(
    ("found", "source"),
    [
        pytest.param(pod("a-prepare-x", role="prepare"), "prepare", id="prepare"),
        pytest.param(trainer("master-0", 2, rank="0"), "2/0", id="rank 0"),
        pytest.param(trainer("worker-0", 2), "2/8", id="first rank of the second pod"),
        pytest.param(trainer("worker-9", 12), "12/80", id="of the eleventh"),
        pytest.param(trainer("n-0-0-x7k2p", index="0"), "1/0", id="rank 0 of a JobSet"),
        pytest.param(trainer("node-0-1-x7k2p", index="1"), "1/8", id="second pod of a TrainJob"),
        pytest.param(trainer("node-0-1-24569", index="1"), "1/8", id="whose name ends in digits by chance"),
        pytest.param(trainer("n-0-11-24569", 3, index="11"), "3/88", id="twelfth pod of a JobSet"),
        pytest.param(trainer("n-0-1-24569"), "None", id="a name that tells nothing"),
        pytest.param(pod("a-init", role="trainer"), "None", id="no pod of an attempt"),
    ],
)
def test_a_line_is_known_by_attempt_and_rank(found: dict[str, Any], source: str) -> None:
    assert str(source_of(found, processes_per_node=8)) == source


def test_logs_are_one_log_in_the_order_of_their_times_attempt_by_attempt() -> None:
    logs = {
        Source(2, 0): ["12:05 again"],
        Source(1, 8): ["12:01 second", "12:01 third", "12:04 [rank 8] last"],
        Source(0, 0): ["12:09 a clock that is late"],
        Source(1, 0): ["12:00 first", "12:02 \x1b[2Jhidden", "11:00 a clock set back", ""],
    }
    assert [line.shown() for line in merged(logs)] == [
        "[prepare] a clock that is late",
        "[1/0] first",
        "[1/8] second",
        "[1/8] third",
        "[1/0] \\x1b[2Jhidden",
        "[1/0] a clock set back",
        "[1/0] ",
        "[1/8] last",
        "[2/0] again",
    ]


def receipts(attempt: int = 1, phase: str = "Running", **reasons: str) -> dict[str, Any]:
    """The job as the cluster has it; `reasons` of conditions, of which Running alone is not true."""
    metadata = {"name": "receipts", "uid": "u", "namespace": "team-a"}
    return {
        "metadata": metadata,
        "spec": {"storage": {}},
        "status": {
            "attempt": attempt,
            "phase": phase,
            "conditions": [
                {"type": kind, "status": "False" if kind == "Running" else "True", "reason": reason}
                for kind, reason in reasons.items()
            ],
        },
    }


@pytest.mark.parametrize(
    ("phase", "reasons"),
    [
        pytest.param("Restarting", {"Restarting": "Fault"}, id="its end is judged, and a pause follows"),
        pytest.param("Pending", {"Running": "NoRoom"}, id="it goes on once there is room"),
    ],
)
def test_an_attempt_that_another_follows_is_over(phase: str, reasons: dict[str, str]) -> None:
    assert gone_attempts(receipts(2, phase, **reasons), {1}) == [2]


@pytest.mark.parametrize(
    ("attempt", "phase", "with_pods", "gone"),
    [
        pytest.param(0, "Pending", set(), [], id="nothing has begun"),
        pytest.param(1, "Running", set(), [], id="its pods are yet to be made"),
        pytest.param(3, "Running", {0, 2}, [1], id="an earlier one"),
        pytest.param(2, "Suspended", set(), [1, 2], id="a job that rests"),
        pytest.param(2, "Succeeded", {2}, [1], id="a job that is over, and pods that are left"),
        pytest.param(1, "Failed", set(), [1], id="a job that is over"),
    ],
)
def test_only_pods_that_have_been_there_can_be_gone(
    attempt: int, phase: str, with_pods: set[int], gone: list[int]
) -> None:
    assert gone_attempts(receipts(attempt, phase), with_pods) == gone


def answers(job: Mapping[str, Any], *pods: Mapping[str, Any], **logs: str) -> dict[str, Any]:
    """What the cluster says of the job and its pods; `logs` by the pods' names without those of the job."""
    said: dict[str, Any] = {"/finetunejobs/receipts": (200, job), "/pods": (200, {"items": [*pods]})}
    for one in pods:
        name = one["metadata"]["name"]
        said[f"/pods/{name}/log"] = (200, logs.get(name.replace("-", "_"), ""))
        said[f"/pods/{name}"] = (200, one)
    return said


def test_pods_that_wait_for_a_node_are_not_said_to_be_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = trainer("master-0", phase="Pending", rank="0")
    for job in (receipts(), receipts(phase="Suspended")):
        with api_server(404, {}, answers(job, waiting)) as address:
            assert main(["logs", "receipts", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "no pod of the job has started yet; kubectl finetune status says why\n"


@pytest.mark.parametrize("options", [[], ["--tail", "5"]], ids=["all", "the last lines"])
def test_of_a_job_whose_pods_are_gone_it_is_said_where_the_logs_are(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with api_server(404, {}, answers(receipts(phase="Succeeded"))) as address:
        assert main(["logs", "receipts", *options, "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    assert capsys.readouterr().err == (
        "attempt 1: the pods are gone; "
        "their logs are on the volume, --from-volume reads them with a helper pod\n"
    )


def test_every_pod_of_an_indexed_job_has_its_lines_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pods = [trainer("node-0-0-b2b2b", index="0"), trainer("node-0-1-x7k2p", index="1")]
    logs = {
        "receipts_1_node_0_0_b2b2b": "2026-11-21T12:00:00Z step 1",
        "receipts_1_node_0_1_x7k2p": "2026-11-21T12:00:01Z it diverges",
    }
    with api_server(404, {}, answers(receipts(), *pods, **logs)) as address:
        assert main(["logs", "receipts", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    assert capsys.readouterr().out == "[1/0] step 1\n[1/1] it diverges\n"


LOGS: dict[str, tuple[int, Any]] = {
    "/finetunejobs/receipts": (
        200,
        {"metadata": {"name": "receipts", "uid": "u"}, "spec": {}, "status": {"attempt": 1}},
    ),
    "/pods": (
        200,
        {
            "items": [
                {
                    "metadata": {
                        "name": f"receipts-1-{name}",
                        "labels": {"phitune.dev/role": "trainer", "phitune.dev/attempt": "1", **labels},
                    },
                    "status": {"phase": "Running"},
                }
                for name, labels in (("master-0", {"phitune.dev/rank": "0"}), ("worker-0", {}))
            ]
        },
    ),
    "/pods/receipts-1-master-0/log": (200, "2026-11-21T12:00:00Z it diverges"),
    "/pods/receipts-1-worker-0/log": (500, {"message": "dial tcp: i/o timeout"}),
}


def test_logs_of_a_lost_node_do_not_hide_those_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with api_server(404, {}, LOGS) as address:
        assert main(["logs", "receipts", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    out, err = capsys.readouterr()
    assert out == "[1/0] it diverges\n"
    assert "[1/1] no log of pod receipts-1-worker-0: the API server says: dial tcp: i/o timeout" in err

    lost = {**LOGS, "/pods/receipts-1-master-0/log": LOGS["/pods/receipts-1-worker-0/log"]}
    with api_server(404, {}, lost) as address:
        assert main(["logs", "receipts", "--kubeconfig", kubeconfig(tmp_path, address)]) == 69


def test_a_log_whose_connection_ends_before_its_pod_is_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.logs_cmd._POLL_SECONDS", 0.05)
    name, job = "receipts-1-master-0", LOGS["/finetunejobs/receipts"][1]
    first, second = "2026-11-21T12:00:00.1Z first", "2026-11-21T12:00:00.2Z second"
    asked: list[str] = []

    def log(query: str) -> tuple[int, Any]:
        asked.append(query)
        return 200, first if len(asked) == 1 else f"{first}\n{second}"

    def pod() -> dict[str, Any]:
        return {**LOGS["/pods"][1]["items"][0], "status": {"phase": "Succeeded" if asked[1:] else "Running"}}

    answers = {
        "/finetunejobs/receipts": lambda _: (
            200,
            {**job, "status": {"attempt": 1, "phase": "Succeeded" if asked[1:] else "Running"}},
        ),
        "/pods": lambda _: (200, {"items": [pod()]}),
        f"/pods/{name}/log": log,
        f"/pods/{name}": lambda _: (200, pod()),
    }
    with api_server(404, {}, answers) as address:
        assert main(["logs", "receipts", "-f", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    assert capsys.readouterr().out == "[1/0] first\n[1/0] second\n"
    assert "sinceTime" not in asked[0]
    assert "sinceTime=2026-11-21T12%3A00%3A00.1Z" in asked[1]


def test_a_pod_that_starts_while_another_one_talks_without_a_pause_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.logs_cmd._POLL_SECONDS", 0.2)
    master, worker = trainer("master-0", phase="Succeeded", rank="0"), trainer("worker-0", phase="Succeeded")
    said = answers(receipts(), master, worker, receipts_1_worker_0="2026-11-21T12:00:00Z I am here")
    num_said, looks = 0, list[int]()

    def talk() -> Iterator[str]:
        nonlocal num_said
        while num_said < 1000 and not any(looks):
            yield f"2026-11-21T12:00:00.{num_said:03}Z on and on\n"
            num_said += 1
            time.sleep(0.01)

    def pods(_: str) -> Any:
        looks.append(num_said)
        return 200, {"items": [master, worker] if num_said else [master]}

    said["/finetunejobs/receipts"] = lambda _: (200, receipts(phase="Succeeded" if num_said else "Running"))
    said["/pods/receipts-1-master-0/log"] = lambda _: (200, talk())
    with api_server(404, {}, {**said, "/pods": pods}) as address:
        assert main(["logs", "receipts", "-f", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    assert num_said < 1000
    assert "[1/1] I am here" in capsys.readouterr().out


ILL = (500, {"message": "etcdserver: leader changed"})


def hiccups(number: int, answer: Any) -> Callable[[str], Any]:
    """The first answer, so many that are none, and from then on the last."""
    asked: list[str] = []

    def say(path: str) -> Any:
        asked.append(path)
        return ILL if 1 < len(asked) <= 1 + number else answer

    return say


def test_a_cluster_that_does_not_answer_for_a_while_does_not_end_what_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.logs_cmd._POLL_SECONDS", 0.02)
    done = trainer("master-0", phase="Succeeded", rank="0")
    said = answers(receipts(phase="Succeeded"), done, receipts_1_master_0="2026-11-21T12:00:00Z done")
    for what in ("/finetunejobs/receipts", "/pods"):
        said[what] = hiccups(3, said[what])
    with api_server(404, {}, said) as address:
        assert main(["logs", "receipts", "-f", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    out, err = capsys.readouterr()
    assert out == "[1/0] done\n"
    assert err.count("leader changed") == 1
    assert "the cluster answers again" in err


def test_nor_is_it_waited_for_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.logs_cmd._POLL_SECONDS", 0.02)
    monkeypatch.setattr("phitune_cli.finetune.patience.GIVE_UP_SECONDS", 0.1)
    said = answers(receipts(), trainer("master-0", rank="0"))
    said["/finetunejobs/receipts"] = hiccups(10**9, said["/finetunejobs/receipts"])
    with api_server(404, {}, said) as address:
        assert main(["logs", "receipts", "-f", "--kubeconfig", kubeconfig(tmp_path, address)]) == 69
    assert "leader changed" in capsys.readouterr().err


def test_a_job_that_is_deleted_ends_what_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.logs_cmd._POLL_SECONDS", 0.02)
    known = iter([(200, receipts())])
    gone = (404, {"reason": "NotFound"})
    said = {"/finetunejobs/receipts": lambda _: next(known, gone), "/finetunejobs": (200, {"items": []})}
    with api_server(200, {"items": []}, said) as address:
        assert main(["logs", "receipts", "-f", "--kubeconfig", kubeconfig(tmp_path, address)]) == 2
    assert "no FineTuneJob receipts in namespace team-a" in capsys.readouterr().err

"""What `make bench-operator` counts and how, and what it puts into a cluster. Nothing is measured here."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from benchrows.row import NotMeasured, Workplace
from operatorbench.api import each
from operatorbench.applied import quantile
from operatorbench.jobs import copied, job, node
from operatorbench.once import Once
from operatorbench.operator import read_samples, total
from operatorbench.process import Process
from operatorbench.progress import ranks
from operatorbench.rows import ROWS
from operatorbench.stages import LABEL_END, LAST_WORDS, stages
from operatorbench.writes import AuditLog, in_words
from phitune_operator.names import PROGRESS_PORT
from phitune_operator.reports import ProgressReport, read_end, read_progress
from phitune_operator.validate import read_job

REPOSITORY = Path(__file__).resolve().parents[3]
HOST = "127.0.0.84"


def audited(verb: str, resource: str, name: str = "", subresource: str = "") -> str:
    ref = {"resource": resource, "name": name, "subresource": subresource}
    return json.dumps({"verb": verb, "objectRef": {key: value for key, value in ref.items() if value}}) + "\n"


def test_the_writes_of_the_operator_are_what_the_api_server_has_logged_since_the_last_look(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.log"
    path.write_text(audited("patch", "leases", "phitune") + audited("create", "configmaps"))
    log = AuditLog(path)
    assert in_words(log.new()) == "1 create configmaps"
    half = audited("patch", "finetunejobs", "b", "status")
    with path.open("a") as more:
        more.write(audited("patch", "finetunejobs", "a", "status") + half[:20])
    (status,) = log.new()
    assert status.is_status
    assert status.name == "a"
    with path.open("a") as more:
        more.write(half[20:] + audited("patch", "finetunejobs", "b"))
    writes = log.new()
    assert [(write.name, write.is_status) for write in writes] == [("b", True), ("b", False)]
    assert in_words(log.new()) == "none"


def test_the_99th_percentile_is_the_wait_that_one_job_in_a_hundred_exceeds() -> None:
    waits = [float(number) for number in range(1, 301)]
    assert quantile(waits, 0.99) == 297
    assert quantile(waits, 0.5) == 150
    assert quantile([7.0], 0.99) == 7
    with pytest.raises(NotMeasured):
        quantile([], 0.99)


def test_a_metric_is_summed_over_its_labels() -> None:
    text = (
        '# HELP looks so many\nlooks_count{outcome="done"} 3.0\nlooks_count{outcome="error"} 1.0\nlooks 9.0\n'
    )
    assert total(read_samples(text), "looks_count") == 4


def test_a_copy_has_other_names_and_uids_and_nothing_that_only_the_server_gives() -> None:
    original = {
        "metadata": {
            "name": "the-pattern-1-master-0",
            "uid": "pod",
            "resourceVersion": "7",
            "managedFields": [{}],
            "labels": {"phitune.dev/job": "the-pattern", "phitune.dev/job-uid": "uid-of-the-job"},
            "ownerReferences": [{"name": "the-pattern-1", "uid": "uid-of-the-gang"}],
        },
        "status": {"phase": "Succeeded"},
    }
    replacements = {"the-pattern": "old-7", "uid-of-the-job": "x", "uid-of-the-gang": "y"}
    assert copied(original, replacements) == {
        "metadata": {
            "name": "old-7-1-master-0",
            "labels": {"phitune.dev/job": "old-7", "phitune.dev/job-uid": "x"},
            "ownerReferences": [{"name": "old-7-1", "uid": "y"}],
        },
        "status": {"phase": "Succeeded"},
    }


def test_the_jobs_are_valid_and_the_nodes_have_gpus_that_the_operator_knows() -> None:
    for ends_soon in (False, True):
        read = read_job(job("a", ends_soon=ends_soon))
        labels = (read.spec.pod_template.labels if read.spec.pod_template else None) or {}
        assert (labels.get(LABEL_END) == "soon") is ends_soon
    made = node(3)
    assert made["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert made["metadata"]["labels"]["nvidia.com/gpu.compute.major"] == "9"


def test_a_pod_ends_with_last_words_that_the_operator_understands() -> None:
    (template,) = [
        stage["spec"]["next"]["statusTemplate"]
        for stage in stages()
        if stage["metadata"]["name"] == "gang-ends"
    ]
    (line,) = [line for line in template.splitlines() if "message:" in line]
    message = json.loads(line.partition(":")[2])
    assert json.loads(message) == LAST_WORDS
    end = read_end(message)
    assert end is not None
    assert end.evaluation is not None
    assert end.progress is not None
    assert set(end.artifact_paths) == {"adapter", "report"}


def test_a_rank_has_new_progress_at_every_question_until_all_stand_still() -> None:
    async def run() -> list[ProgressReport | None]:
        async with ranks([HOST]) as served, aiohttp.ClientSession() as session:

            async def ask() -> ProgressReport | None:
                await asyncio.sleep(0.01)
                async with session.get(f"http://{HOST}:{PROGRESS_PORT}/progress") as answer:
                    return read_progress(await answer.read())

            going = [await ask(), await ask()]
            served.stand_still()
            answers = [*going, await ask(), await ask()]
            assert served.num_answers == 4
            return answers

    first, second, third, fourth = asyncio.run(run())
    assert first is not None
    assert second is not None
    assert first.updated_at != second.updated_at
    assert third is not None
    assert third == fourth


def test_rows_of_one_measurement_share_it_and_what_went_wrong_is_tried_again(tmp_path: Path) -> None:
    tries: list[int] = []

    async def measure(_: Workplace) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise NotMeasured("no API server")
        return 7

    once = Once(measure)
    work = Workplace(tmp_path, print)
    with pytest.raises(NotMeasured):
        once(work)
    assert [once(work), once(work)] == [7, 7]
    assert len(tries) == 2


def test_the_first_request_that_is_refused_ends_the_rest() -> None:
    done: list[int] = []

    async def do(number: int) -> None:
        if number == 3:
            raise NotMeasured("refused")
        done.append(number)
        await asyncio.sleep(0)

    with pytest.raises(ExceptionGroup):
        asyncio.run(each(range(100), do, at_once=2))
    assert len(done) < 10


def test_memory_and_cpu_are_those_of_the_process_that_is_asked_about() -> None:
    work = "held = b'x' * 64_000_000; print(sum(range(3_000_000)), flush=True); del held; input()"
    with subprocess.Popen([sys.executable, "-c", work], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = Process(child.pid)
        assert process.peak_resident_bytes() > 64_000_000
        assert 0 < process.resident_bytes() <= process.peak_resident_bytes()
        assert process.cpu_seconds() > 0.01
        child.communicate(b"\n")


def test_help_lists_every_row_with_its_bar_and_the_documentation_explains_it() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "operator"), "--help"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    for each_row in ROWS:
        assert f"{each_row.bar} {each_row.unit}" in done.stdout
        assert each_row.name in done.stdout
        assert f"| `{each_row.name}` |" in pages
    assert len(ROWS) == len({each_row.name for each_row in ROWS})

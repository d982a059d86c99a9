"""report.html: what a person reads of a run, in whatever state it is, and that it shows text as text."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.run_folder import RunFolder, answer
from phitune_cli.main import main
from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import Interrupted
from phitune_trainer.plain_text import inert
from phitune_trainer.report import keep_report, write_report
from phitune_trainer.report.curves import chart, number, smooth, thin
from phitune_trainer.report.predictions import best_and_worst
from phitune_trainer.report.run_record import read_run

HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</pre></title></style><iframe src=//evil.test></iframe>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\x1b]0;title\x07\x9b31m",
    "\u202egnp.exe\u2066",
    "\udcff\x00",
    "javascript:alert(1)",
    "שלום עולם",
]


class Page(HTMLParser):
    """The tags, attributes and text that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture
def folder(workspace: Path, make_config: Callable[..., TrainConfig]) -> RunFolder:
    """A run without a start yet, over 24 samples with pictures of one colour."""
    return RunFolder(workspace, make_config(data={"eval": "eval.jsonl"}).to_yaml())


def page_of(folder: RunFolder) -> Page:
    return Page(write_report(folder.layout).read_text(encoding="utf-8"))


def test_a_run_is_told_from_its_state_to_its_config(folder: RunFolder) -> None:
    folder.start(1, range(1, 5))
    folder.score(1, 0, 0.25, [answer(1, prediction="blue", score=0.0)])
    folder.score(1, 4, 0.75, [answer(1, pictures=("0.png",))])
    folder.result()
    page = page_of(folder)
    for words in (
        "Complete: 4 steps, finished 2026-01-02 03:14 UTC",
        "0.2500 → 0.7500 +0.5000",
        "exactMatch, 1 held-out samples, 95% interval",
        "0.650 to 0.850",
        "Which colour? answer red expected red before blue score 1.00 +1.00",
        "images/s, median 10",
        "globalBatchSize: 12",
    ):
        assert words in page.text, words
    (picture,) = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert picture.startswith("data:image/jpeg;base64,")
    titles = ("Loss", "Learning rate", "Gradient norm", "Speed", "Memory of rank 0", "Score")
    assert [title for title in titles if title not in page.text] == []


def test_a_run_that_has_not_ended_says_how_far_it_is(folder: RunFolder) -> None:
    folder.start(1, range(1, 4))
    assert "Not complete: step 3, last heard of 2027-01-15 08:00 UTC" in page_of(folder).text


def test_a_run_that_has_just_begun_has_a_report_too(folder: RunFolder) -> None:
    assert "Not complete: step 0" in page_of(folder).text


def test_only_steps_on_the_way_to_the_newest_start_count(folder: RunFolder) -> None:
    folder.start(1, range(1, 9))
    folder.start(2, range(5, 10), origin=(1, 4))
    folder.start(3, range(7, 11), origin=(2, 6))
    folder.score(1, 8, 0.1)
    folder.score(2, 6, 0.6)
    run = read_run(folder.layout)
    assert [(row["step"], int(row["loss"])) for row in run.rows] == [
        *((step, 1) for step in range(1, 5)),
        *((step, 2) for step in (5, 6)),
        *((step, 3) for step in range(7, 11)),
    ]
    assert run.num_left_behind == 4 + 3
    assert [one["step"] for one in run.evaluations] == [6], "what start 1 scored after step 4 does not count"
    page = page_of(folder)
    assert "Starts 3, 7 steps trained again" in page.text
    assert "step 4 of start 1 5 to 6" in page.text


def test_the_base_models_score_counts_whichever_start_measured_it(folder: RunFolder) -> None:
    folder.start(1, [])
    folder.score(1, 0, 0.25)
    folder.start(2, range(1, 5))
    folder.score(2, 4, 0.75)
    assert [one["step"] for one in read_run(folder.layout).evaluations] == [0, 4]


@pytest.mark.parametrize(
    ("resume_from", "words"),
    [
        pytest.param(None, "step 0 is the base model", id="from the base model"),
        pytest.param("runs/a/b/00000001", "step 0 is the weights it starts with", id="from another run"),
    ],
)
def test_what_step_0_is_follows_from_where_the_run_began(
    resume_from: str | None, words: str, workspace: Path, make_config: Any
) -> None:
    folder = RunFolder(workspace, make_config(resumeFrom=resume_from).to_yaml())
    folder.start(1, [])
    folder.score(1, 0, 0.25)
    assert words in page_of(folder).text


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_text_of_others_is_shown_and_does_nothing(tmp_path: Path, hostile: str) -> None:
    html, calm = (
        full_of(text, RunFolder(tmp_path / name, "")) for name, text in (("a", hostile), ("b", "calm"))
    )
    page = Page(html)
    assert {(tag, name) for tag, name, _ in page.attributes} == {
        (tag, name) for tag, name, _ in Page(calm).attributes
    }
    assert page.tags == Page(calm).tags
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", html)
    # Title, host, question, answer, expected, before, finished, and each of its other places.
    assert page.text.count(" ".join(inert(hostile).split())) >= 12


def full_of(text: str, folder: RunFolder) -> str:
    """The report of a run in which every text is this one."""
    config = {"task": text, "method": text, "run": {"name": text, "namespace": text}}
    folder.layout.config.write_text(json.dumps(config))
    folder.start(1, range(1, 5), host=text)
    fields = {"question": text, "answers": (text,), "pictures": (text,), "group": text}
    shown = answer(1, prediction=text, **fields)
    folder.score(1, 0, 0.25, [shown], metric=text)
    folder.score(1, 4, 0.5, [shown], metric=text)
    folder.layout.incarnation(1).summary.write_text(
        json.dumps({"version": 1, "totalSteps": 4, "rows": {text: text}})
    )
    folder.result(artifacts={text: text}, finishedAt=text)
    return write_report(folder.layout).read_text(encoding="utf-8")


def test_the_page_itself_may_neither_run_scripts_nor_ask_for_anything(folder: RunFolder) -> None:
    (policy,) = [
        value
        for tag, name, value in page_of(folder).attributes
        if (tag, name) == ("meta", "content") and "-src" in value
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_long_texts_are_cut_and_the_page_stays_small(folder: RunFolder) -> None:
    folder.start(1, range(1, 10_001))
    many = tuple(f"{index}.png" for index in range(9))
    answers = [answer(index, prediction="ha" * 50_000, pictures=many) for index in range(200)]
    folder.score(1, 10_000, 0.5, answers)
    html = write_report(folder.layout).read_text(encoding="utf-8")
    page = Page(html)
    assert "… (99,400 more characters)" in page.text
    assert "and 5 more" in page.text
    assert len(html) < 2_000_000
    paths = [value for tag, name, value in page.attributes if (tag, name) == ("path", "d")]
    assert len(paths) > 5
    assert max(path.count(",") for path in paths) <= 600


def test_a_picture_that_cannot_be_shown_says_why(folder: RunFolder, workspace: Path) -> None:
    (workspace / "data" / "colors" / "images" / "broken.png").write_bytes(b"no picture")
    (workspace / "data" / "colors" / "images" / "out.png").symlink_to("/etc/hostname")
    names = ("gone.png", "../train.jsonl", "broken.png", "out.png")
    folder.start(1, range(1, 5))
    folder.score(1, 4, 0.5, [answer(1, pictures=names)])
    page = page_of(folder)
    assert "img" not in page.tags
    for words in ("not found", "without '..'", "not a picture that can be read", "leads out of"):
        assert words in page.text, words


def test_without_its_data_set_the_report_says_so_in_place_of_pictures(folder: RunFolder) -> None:
    folder.layout.config.write_text("task: jsonl\n")
    folder.start(1, range(1, 5))
    folder.score(1, 4, 0.5, [answer(1, pictures=("0.png",))])
    page = page_of(folder)
    assert "no picture:" in page.text
    assert "config.yaml: " in page.text


def test_pictures_of_parquet_files_are_found_by_file_and_row(
    workspace: Path, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    data = workspace / "data" / "pages" / "data"
    data.mkdir(parents=True)
    picture = tmp_path / "page.png"
    Image.new("RGB", (600, 200), (200, 30, 30)).save(picture)
    row = {
        "image": {"bytes": picture.read_bytes(), "path": "page.png"},
        "query": {"en": "Which colour?"},
        "answers": ["red"],
    }
    file = data / "test-00000-of-00001-x.parquet"
    pq.write_table(pa.Table.from_pylist([row, row]), file)
    other = data / "test-00001-of-00002-x.parquet"
    pq.write_table(pa.Table.from_pylist([{"answers": ["red"]}]), other)
    config = make_config(task="docvqa", data={"path": "data/pages"}, training={"numCrops": 4})
    folder = RunFolder(workspace, config.to_yaml())
    folder.start(1, range(1, 5))
    elsewhere = f"/workspace/data/pages/data/{file.name}"
    names = (
        f"{elsewhere}:row 1:image",
        f"{elsewhere}:row 2:image",
        "/etc/passwd:row 0:image",
        f"{file}:row 0:x",
    )
    bare = f"/workspace/data/pages/data/{other.name}:row 0:image"
    folder.score(1, 4, 0.5, [answer(1, pictures=names), answer(2, pictures=(bare,))])
    page = page_of(folder)
    sizes = {
        name: value for tag, name, value in page.attributes if tag == "img" and name in ("width", "height")
    }
    assert sizes == {"width": "320", "height": "106"}
    for words in (
        "its row is not part of",
        "its file is not part of",
        "its row has no such picture",
        "column 'image' must be struct",
    ):
        assert words in page.text, words


def test_what_is_damaged_is_left_out_and_said(folder: RunFolder) -> None:
    folder.start(1, range(1, 5))
    with folder.layout.incarnation(1).metrics.open("a") as file:
        file.write('{"step": 5, "lo{"step": 6}\n[]\n')
    folder.start(2, range(3, 7), origin=(1, 2))
    folder.layout.incarnation(2).start.write_text("{")
    folder.score(1, 4, 0.5)
    (folder.layout.incarnation(1).evaluation(4) / "predictions.jsonl").write_text("{}\n")
    folder.layout.result.write_text("{")
    page = page_of(folder)
    for words in (
        "incarnations/0001/metrics.jsonl: 2 damaged lines are left out",
        "incarnations/0002/start.json cannot be read",
        "predictions.jsonl cannot be read",
        "result.json cannot be read",
        "Not complete: step 4",
    ):
        assert words in page.text, words


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"details": {"consistency": {"value": 0.5}}}, id="a detail without its interval"),
        pytest.param({"details": ["consistency"]}, id="details of another form"),
        pytest.param({"value": 10**400}, id="a number that no float holds"),
        pytest.param({"high": None}, id="no interval"),
        pytest.param({"baseline": "0.5"}, id="a baseline that is no number"),
    ],
)
def test_a_score_that_is_damaged_is_left_out_and_said(folder: RunFolder, fields: dict[str, Any]) -> None:
    folder.start(1, range(1, 5))
    folder.score(1, 2, 0.5)
    folder.score(1, 4, 0.75)
    metrics = folder.layout.incarnation(1).evaluation(4) / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), **fields}))
    page = page_of(folder)
    assert "incarnations/0001/eval/step-00000004/metrics.json is not that of a score" in page.text
    assert "0.5000" in page.text


def test_numbers_that_cannot_be_are_passed_over(folder: RunFolder) -> None:
    folder.start(1, range(1, 5), time=1e18, loss=10**400, seconds=float("inf"))
    text = page_of(folder).text
    assert "last heard of 1e18 s after 1970" in text
    assert "Time in steps" not in text


def test_a_score_that_may_not_be_read_is_said(folder: RunFolder) -> None:
    folder.start(1, range(1, 5))
    folder.score(1, 4, 0.5)
    metrics = folder.layout.incarnation(1).evaluation(4) / "metrics.json"
    metrics.unlink()
    metrics.mkdir()  # the tests may run as root, who may read anything
    assert "eval/step-00000004/metrics.json cannot be read: Is a directory" in page_of(folder).text


def test_the_command_writes_where_it_is_told_and_refuses_what_is_no_run(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.start(1, range(1, 5))
    out = tmp_path / "now.html"
    assert main(["report", str(folder.layout.path), "--output", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert out.read_text().startswith("<!doctype html>")
    assert not folder.layout.report.exists()
    assert main(["report", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(["report", str(folder.layout.path), "--output", str(tmp_path / "no" / "x.html")]) == 2
    assert f"x.html: there is no folder {tmp_path / 'no'}" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_a_warning_and_no_artifact(folder: RunFolder) -> None:
    warnings: list[str] = []
    folder.layout.report.mkdir()
    assert keep_report(folder.layout, folder.result(), warnings.append) == {}
    (warning,) = warnings
    assert warning.startswith("no report: IsADirectoryError")
    assert f"phitune report {folder.layout.path}" in warning
    folder.layout.report.rmdir()
    place = "runs/local/colors/0001/report.html"
    assert keep_report(folder.layout, folder.result(), pytest.fail) == {"report": place}


def test_a_request_to_stop_is_not_taken_for_a_report_that_failed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr("phitune_trainer.report.render", interrupted)
    with pytest.raises(Interrupted):
        keep_report(folder.layout, {}, pytest.fail)


def test_best_and_worst_share_no_sample_and_begin_with_what_changed_most() -> None:
    before = {f"eval.jsonl:{index}": answer(index, score=float(index % 2)) for index in range(4)}
    after = [answer(index, score=score) for index, score in enumerate((1.0, 1.0, 0.0, 0.0))]
    best, worst = best_and_worst(after, before, count=2)
    assert [shown.after.sample[-1] for shown in best] == ["0", "1"]
    assert [shown.after.sample[-1] for shown in worst] == ["3", "2"]
    best, worst = best_and_worst(after[:3], before, count=2)
    assert (len(best), len(worst)) == (2, 1)


@pytest.mark.parametrize(("score", "lengths"), [(1.0, (2, 0)), (0.5, (1, 1)), (0.0, (0, 2))])
def test_no_right_answer_is_shown_as_one_of_the_worst_and_no_wrong_one_as_one_of_the_best(
    score: float, lengths: tuple[int, int]
) -> None:
    best, worst = best_and_worst([answer(index, score=score) for index in range(2)], {})
    assert (len(best), len(worst)) == lengths


def test_a_thinned_curve_keeps_every_spike() -> None:
    points = [(step, 1.0) for step in range(1, 10_001)]
    points[4321] = (4322, 99.0)
    points[7000] = (7001, -5.0)
    few = thin(points)
    assert len(few) <= 600
    assert few == sorted(few)
    assert {(4322, 99.0), (7001, -5.0)} <= set(few)


def test_the_moving_average_neither_lags_nor_follows_the_last_step() -> None:
    line = [(step, 3.0 * step) for step in range(1, 201)]
    assert [value for _, value in smooth(line)[3:-3]] == pytest.approx([value for _, value in line[3:-3]])
    *_, (step, value) = smooth([*line[:-1], (200, 10_000.0)])
    assert (step, value < 4000) == (200, True)


@pytest.mark.parametrize(
    ("values", "labels", "is_log"),
    [
        pytest.param([0.5, 1.9], ["0.5", "1", "1.5", "2"], False, id="linear"),
        pytest.param([0.001, 8.0], ["0.001", "0.01", "0.1", "1", "10"], True, id="logarithmic"),
        pytest.param([2.0], ["2", "2.5", "3", "3.5", "4"], False, id="one value"),
        pytest.param([-1.0, 1.0], ["-1", "-0.5", "0", "0.5", "1"], False, id="below zero"),
        pytest.param([1e-4, 2e-3], ["0", "0.5e-3", "1e-3", "1.5e-3", "2e-3"], False, id="small"),
    ],
)
def test_axes_have_round_numbers(values: list[float], labels: list[str], is_log: bool) -> None:
    found = chart("Loss", list(enumerate(values, start=1)))
    assert found is not None
    assert [tick.label for tick in found.y_ticks] == labels
    assert ("log" in found.unit) is is_log
    assert all(-0.01 <= tick.percent <= 100.01 for tick in [*found.y_ticks, *found.x_ticks])


def test_what_is_not_a_number_leaves_no_hole_in_the_page() -> None:
    assert chart("Loss", [(1, float("nan")), (2, float("inf"))]) is None
    found = chart("Loss", [(1, float("nan")), (2, 1.0)])
    assert found is not None
    assert "nan" not in found.raw


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (1234.5, "1,234"),
        (12.0, "12"),
        (2e-5, "2e-5"),
        (7.6756, "7.68"),
        (3e7, "3e7"),
    ],
)
def test_numbers_are_short(value: float, words: str) -> None:
    assert number(value) == words

"""`phitune data check`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from phitune_cli.data_check_cmd import MAX_LENGTH, NUM_CROPS, histogram
from phitune_cli.main import main
from phitune_operator.api import TrainingSpec

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Write lines, run the command over them; exit code, stdout and stderr."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (336, 336)).save(tmp_path / "images" / "a.png")

    def run(lines: list[str], *options: str) -> tuple[int, str, str]:
        (tmp_path / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
        code = main(["data", "check", str(tmp_path / "train.jsonl"), *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def line(image: str = "a.png", answer: str = "yes") -> str:
    turn = {"images": [image], "user": "Is it black?", "assistant": answer}
    return json.dumps({"conversations": [turn]})


def test_a_good_file_is_counted(run: Run) -> None:
    code, out, err = run([line()] * 12)
    assert (code, err) == (0, "")
    assert "12 good samples, 12 turns, 12 pictures, about" in out
    assert "tokens of text are estimated; --model FOLDER counts them" in out
    assert "no problems" in out


def test_all_problems_are_printed_but_not_endlessly_many(run: Run) -> None:
    code, out, _ = run([line(), line("none.png"), "{", *["[]"] * 60])
    assert code == 2
    assert "train.jsonl:2: picture 'none.png': not found" in out
    assert "train.jsonl:3: not JSON" in out
    assert "problems: 62, in 62 lines" in out
    assert "and 12 more" in out
    assert out.count("train.jsonl:") == 1 + 50


def test_samples_that_are_too_long_are_no_problem_and_are_counted(run: Run) -> None:
    code, out, _ = run([line(), line(answer="yes " * 900)], "--max-length", "2900")
    assert code == 0
    assert (
        "longer than 2,900 tokens (--max-length): about 1 samples (50.0%), which training leaves out" in out
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_file_whose_samples_are_all_too_long_is_refused_as_training_would(
    run: Run, form: str, tmp_path: Path
) -> None:
    assert main(["init-model", "--size", "tiny", "--out", str(tmp_path / "tiny")]) == 0
    code, out, err = run([line()] * 3, "--max-length", "40", "-o", form, "--model", str(tmp_path / "tiny"))
    assert code == 2
    assert err.endswith("train.jsonl: all 3 samples are longer than 40 tokens; raise maxLength\n")
    assert "no problems" not in out


def test_an_estimate_refuses_nothing_and_praises_nothing(run: Run) -> None:
    code, out, _ = run([line()] * 3, "--max-length", "40")
    assert code == 0
    assert "by this estimate nothing is left to train on" in out
    assert "no problems" not in out


def test_fewer_crops_make_shorter_samples(run: Run) -> None:
    outs = [run([line()], "--num-crops", crops)[1] for crops in ("1", "16")]
    assert outs[0] != outs[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--model", "/nowhere"], "/nowhere", id="no model"),
        pytest.param([], "has no samples", id="empty file"),
    ],
)
def test_what_cannot_be_checked_is_an_error(options: list[str], message: str, run: Run) -> None:
    code, _, err = run([], *options)
    assert code == 2
    assert message in err


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: cannot be read: No such file" in capsys.readouterr().err


def test_limits_are_those_of_a_job_that_says_nothing_else() -> None:
    assert TrainingSpec().max_length == MAX_LENGTH
    assert NUM_CROPS == 16


@pytest.mark.parametrize("lengths", [[7], [1, 1000], [2638] * 9, list(range(50_000)), [1, 131_072], [10, 21]])
def test_a_histogram_has_few_rows_of_equal_round_widths_and_counts_everything(lengths: list[int]) -> None:
    rows = list(histogram(lengths))
    assert 1 <= len(rows) <= 12
    assert sum(int(row.rsplit(maxsplit=1)[1].replace(",", "")) for row in rows) == len(lengths)
    bounds = [tuple(int(word.replace(",", "")) for word in row.split()[:3:2]) for row in rows]
    widths = {end - start + 1 for start, end in bounds}
    assert len(widths) == 1
    assert str(widths.pop()).rstrip("0") in ("1", "2", "5")
    assert bounds[0][0] <= min(lengths) <= bounds[0][1]
    assert bounds[-1][0] <= max(lengths) <= bounds[-1][1]

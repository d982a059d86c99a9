"""Videos as a data set of frames: which frames, what is written, and what a stop or a bad video leaves."""

import json
import multiprocessing
import os
import struct
import tarfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from harness.videos import grey, write_video
from phitune_cli.main import main
from phitune_trainer.data import DataError
from phitune_trainer.data.ucf101 import Conversion, convert, convert_archive, find_videos
from phitune_trainer.data.ucf101_frames import take_frames

TEST_FRAMES = {
    "ApplyEyeMakeup": 48,
    "ApplyLipstick": 32,
    "Archery": 56,
    "BabyCrawling": 72,
    "BalanceBeam": 32,
    "BandMarching": 72,
    "BaseballPitch": 80,
    "Basketball": 88,
    "BasketballDunk": 48,
    "BenchPress": 72,
}
"""Frames of each class in the test split: 600 in all. The others have 240 and 24 of each."""


def brightness(picture: Image.Image) -> float:
    return float(np.asarray(picture).mean())


def run(videos: Path, out: Path) -> Conversion:
    return convert(find_videos(videos), out, workers=2, on_progress=lambda done, total: None)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two classes, three videos."""
    folder = tmp_path / "videos"
    write_video(folder / "train/Archery/v_Archery_g01_c01.avi", 16)
    write_video(folder / "train/BenchPress/v_BenchPress_g01_c01.mp4", 9, codec="libx264")
    write_video(folder / "test/Archery/v_Archery_g02_c01.avi", 8)
    return folder


@pytest.mark.parametrize(("ending", "codec"), [("avi", "mpeg4"), ("mp4", "libx264"), ("mp4", "mpeg4")])
@pytest.mark.parametrize("num_frames", [1, 3, 8, 9, 30, 47])
def test_the_first_frame_of_each_eighth_is_taken(
    ending: str, codec: str, num_frames: int, tmp_path: Path
) -> None:
    frames = take_frames(write_video(tmp_path / f"a.{ending}", num_frames, codec=codec))
    assert frames.num_decoded == num_frames
    assert len(frames.pictures) == 8
    for eighth, picture in enumerate(frames.pictures):
        assert (picture.mode, picture.size) == ("RGB", (64, 48))
        assert brightness(picture) == pytest.approx(grey(eighth * num_frames // 8, num_frames), abs=6)


@pytest.mark.parametrize("stated", [0, 4, 20, 4000])
def test_frames_are_counted_by_decoding_whatever_the_container_says(stated: int, tmp_path: Path) -> None:
    """Recipe bug 9: the container's number was trusted."""
    video = write_video(tmp_path / "a.avi", 40)
    honest = [brightness(picture) for picture in take_frames(video).pictures]
    raw = bytearray(video.read_bytes())
    for chunk, offset in ((b"avih", 16), (b"strh", 32)):
        struct.pack_into("<I", raw, raw.index(chunk) + 8 + offset, stated)
    video.write_bytes(raw)
    frames = take_frames(video)
    assert frames.num_decoded == 40
    assert frames.num_stated == stated
    assert [brightness(picture) for picture in frames.pictures] == honest


def test_videos_become_the_tree_of_the_recipe(videos: Path, tmp_path: Path) -> None:
    result = run(videos, tmp_path / "out")
    assert result == Conversion(converted={"train": 2, "test": 1})
    assert sorted(contents(tmp_path / "out")) == sorted(
        [
            *[f"images/train/Archery/v_Archery_g01_c01.{number}.jpg" for number in range(8)],
            *[f"images/train/BenchPress/v_BenchPress_g01_c01.{number}.jpg" for number in range(8)],
            *[f"images/test/Archery/v_Archery_g02_c01.{number}.jpg" for number in range(8)],
            "ucf101_train.jsonl",
            "ucf101_test.jsonl",
        ]
    )
    assert lines(tmp_path / "out/ucf101_train.jsonl")[1] == {
        "id": "train-0000000001",
        "source": "ucf101",
        "conversations": [
            {
                "images": [f"train/BenchPress/v_BenchPress_g01_c01.{number}.jpg" for number in range(8)],
                "user": "Classify the video into one of the following classes: Archery, BenchPress.",
                "assistant": "BenchPress",
            }
        ],
    }
    with Image.open(tmp_path / "out/images/train/Archery/v_Archery_g01_c01.7.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 48))
        assert brightness(picture) == pytest.approx(grey(14, 16), abs=6)


def test_a_data_set_of_the_recipes_layout_has_the_recipes_counts_of_each_class(tmp_path: Path) -> None:
    folder = tmp_path / "UCF101_subset"
    model = write_video(tmp_path / "model.avi", 8).read_bytes()
    for name, frames in TEST_FRAMES.items():
        for split, count in (("train", 30), ("val", 3), ("test", frames // 8)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                (folder / split / name / f"v_{name}_g{number:02}_c01.avi").write_bytes(model)
    out = tmp_path / "out"
    assert run(tmp_path, out).converted == {"train": 300, "val": 30, "test": 75}
    for split, counts in {
        "train": dict.fromkeys(TEST_FRAMES, 240),
        "val": dict.fromkeys(TEST_FRAMES, 24),
        "test": TEST_FRAMES,
    }.items():
        assert Counter(path.parent.name for path in (out / "images" / split).glob("*/*.jpg")) == counts
    asked = {line["conversations"][0]["user"] for line in lines(out / "ucf101_val.jsonl")}  # type: ignore[index]
    assert asked == {f"Classify the video into one of the following classes: {', '.join(TEST_FRAMES)}."}


def test_a_folder_that_exists_is_gone_on_with(videos: Path, tmp_path: Path) -> None:
    """Recipe bug 9: the converter failed where its temporary folder existed."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(videos, whole)
    run(videos, out)
    missing = out / "images/train/Archery/v_Archery_g01_c01.3.jpg"
    missing.unlink()
    (missing.parent / ".v_Archery_g01_c01.3.jpg.partial").write_bytes(b"half a picture")
    (out / ".ucf101_train.jsonl.123").write_bytes(b"half a li")
    (out / "ucf101_test.jsonl").unlink()
    (out / "notes.txt").write_text("mine")
    result = run(videos, out)
    assert result.num_kept == 2
    assert contents(out) == {**contents(whole), "notes.txt": b"mine"}


def test_killed_in_the_middle_it_leaves_only_whole_pictures_and_goes_on(tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    for number in range(3):
        write_video(folder / f"train/Archery/v_{number}.avi", 200)
    os.mkfifo(folder / "train/Archery/v_3.avi")  # nobody writes into it, so it is never done
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder, out))
    process.start()
    deadline = time.monotonic() + 60
    while not list(out.glob("images/train/*/*.jpg")) and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.join()
    pictures = list(out.glob("images/train/*/*.jpg"))
    assert 0 < len(pictures) < 32
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
    assert not list(out.glob("*.jsonl"))
    (folder / "train/Archery/v_3.avi").unlink()
    write_video(folder / "train/Archery/v_3.avi", 200)
    run(folder, out)
    run(folder, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_videos_that_cannot_be_read_are_reported_and_the_others_converted(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = write_video(videos / "train/Archery/cut.mp4", 40, codec="libx264")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (videos / "test/Archery/text.avi").write_text("not a video")
    (videos / "test/Archery/none.mp4").touch()
    write_video(videos / "test/Archery/short.avi", 3)
    (videos / "test/Archery/._v_Archery_g02_c01.avi").write_bytes(b"what some archives hold")
    out = tmp_path / "out"
    assert main(["data", "ucf101", "--videos", str(videos), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "3 videos cannot be read, and are left out:" in said.err
    for name in ("cut.mp4", "text.avi", "none.mp4"):
        assert f"Archery/{name}: cannot be decoded: " in said.err
    assert "short.avi: has 3 frames, some are taken more than once" in said.out
    assert "ucf101_train.jsonl: 2 videos, 16 pictures" in said.out
    assert [line["id"] for line in lines(out / "ucf101_test.jsonl")] == ["test-0000000004", "test-0000000006"]
    cut.unlink()
    for name in ("text.avi", "none.mp4"):
        (videos / "test/Archery" / name).unlink()
    assert main(["data", "ucf101", "--videos", str(videos), "--out", str(out)]) == 0
    assert "4 videos were there from an earlier run" in capsys.readouterr().out


def test_a_video_whose_frames_do_not_become_pictures_is_reported_and_the_others_converted(
    videos: Path, tmp_path: Path
) -> None:
    odd = videos / "train/Archery/odd.avi"
    with av.open(str(odd), "w", format="nut") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb4"
        for number in range(9):
            frame = av.VideoFrame(64, 48, "rgb4")
            frame.pts = number
            container.mux(stream.encode(frame))
    result = run(videos, tmp_path / "out")
    assert result.unreadable == [f"{odd}: cannot be decoded: Operation not supported"]
    assert result.converted == {"train": 2, "test": 1}


def test_a_name_that_no_line_can_hold_is_refused(videos: Path) -> None:
    (videos / "train/Archery/v_Archery_g01_c01.avi").rename(
        os.fsdecode(bytes(videos) + b"/train/Archery/\xff.avi")
    )
    with pytest.raises(DataError, match=r"the name 'train/Archery/\\udcff' is not UTF-8; rename the file"):
        find_videos(videos)


def test_a_folder_without_videos_is_refused_with_what_is_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal() -> str:
        assert main(["data", "ucf101", "--videos", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "has none of the folders train, val, test" in refusal()
    (tmp_path / "in/train/Archery").mkdir(parents=True)
    (tmp_path / "in/train/Archery/notes.txt").touch()
    assert "no videos in train/<class>/, val/<class>/, test/<class>/; known endings: .avi .mp4" in refusal()
    for name in ("a.avi", "a.mp4"):
        (tmp_path / "in/train/Archery" / name).touch()
    assert "has the same name but for its ending; rename one" in refusal()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../outside.avi", "/outside.avi", "train/Archery/../../../outside.avi"])
def test_an_archive_writes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    archive, out = tmp_path / "UCF101_subset.tar", tmp_path / "data/ucf101"
    with tarfile.open(archive, "w") as file:
        member = tarfile.TarInfo(name)
        member.size = 1
        file.addfile(member, BytesIO(b"x"))
    with pytest.raises(DataError, match=r"outside\.avi' leads out of it"):
        convert_archive(archive, out, workers=1, on_progress=lambda done, total: None)
    assert not list(tmp_path.rglob("outside.avi"))


def test_an_archive_is_converted_whole_or_not_at_all(videos: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "UCF101_subset.tar.gz", tmp_path / "data/ucf101"

    def pack(folder: Path) -> None:
        with tarfile.open(archive, "w:gz") as file:
            file.add(folder, "UCF101_subset")

    def convert_it() -> Conversion:
        return convert_archive(archive, out, workers=1, on_progress=lambda done, total: None)

    (tmp_path / "bad/train/Archery").mkdir(parents=True)
    (tmp_path / "bad/train/Archery/text.avi").write_text("not a video")
    pack(tmp_path / "bad")
    with pytest.raises(DataError, match=r"none of its videos can be read\n.*text\.avi: cannot be decoded"):
        convert_it()
    (videos / "train/Archery/text.avi").write_text("not a video")
    pack(videos)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"UCF101_subset\.tar\.gz: not a whole tar archive"):
        convert_it()
    assert os.listdir(out.parent) == []
    archive.write_bytes(whole)
    result = convert_it()
    assert result.converted == {"train": 2, "test": 1}
    assert [Path(line.split(": ")[0]).name for line in result.unreadable] == ["text.avi"]
    assert sorted(path.name for path in out.iterdir()) == [
        "images",
        "ucf101_test.jsonl",
        "ucf101_train.jsonl",
    ]

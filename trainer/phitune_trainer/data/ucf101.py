"""Folders of UCF-101 videos as a jsonl data set of frames, in the layout of the recipe's converter.

It can be stopped at any moment, kill -9 included, and run again: a picture appears whole or not at all, a
video whose pictures are all there is not decoded again, and a jsonl file names only pictures that are there.
"""

import json
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from phitune_trainer.data.errors import DataError
from phitune_trainer.data.tasks.table import VIDEO_CLASSES
from phitune_trainer.data.ucf101_frames import NUM_FRAMES, take_frames
from phitune_trainer.errors import writing_to
from phitune_trainer.folders import building
from phitune_trainer.run_layout import write_atomically

SPLITS: Final = ("train", "val", "test")
VIDEO_ENDINGS: Final = (".avi", ".mp4", ".mkv", ".mov", ".webm")

_JPEG_QUALITY: Final = 95
_PARTIAL: Final = ".partial"

OnProgress = Callable[[int, int], None]
"""Called with the videos done and all videos."""


@dataclass(frozen=True)
class Video:
    """A video and what it shows."""

    split: str
    label: str
    """The class: the name of its folder."""
    path: Path

    @property
    def name(self) -> str:
        """split/class/video, without the ending."""
        return f"{self.split}/{self.label}/{self.path.stem}"

    @property
    def pictures(self) -> list[str]:
        """Names of its pictures, relative to the images folder."""
        return [f"{self.name}.{number}.jpg" for number in range(NUM_FRAMES)]


@dataclass
class Conversion:
    """What came of it."""

    converted: dict[str, int] = field(default_factory=dict)
    """Videos in the jsonl file of each split."""
    num_kept: int = 0
    """Videos whose pictures were there from an earlier run."""
    unreadable: list[str] = field(default_factory=list)
    """A line for each video that is left out: which and why."""
    short: list[str] = field(default_factory=list)
    """A line for each video with fewer frames than it says, or than are taken."""


def find_videos(folder: Path) -> list[Video]:
    """The videos of a folder that has {train,val,test}/<class>/<video>, or one folder that does.

    Raises DataError for a folder without any, for two videos whose pictures would have the same names, and
    for a name that is not UTF-8, which a jsonl file cannot hold.
    """
    root = _root(folder)
    if root is None:
        raise DataError(
            f"{folder}: has none of the folders {', '.join(SPLITS)}; "
            "the videos must lie in train/<class>/<video>.avi, and so on"
        )
    videos = [video for split in SPLITS for video in _videos_of(root / split)]
    if not videos:
        raise DataError(
            f"{root}: no videos in {', '.join(f'{split}/<class>/' for split in SPLITS)}; "
            f"known endings: {' '.join(VIDEO_ENDINGS)}"
        )
    names = Counter(video.name for video in videos)
    for video in videos:
        if not _is_utf8(video.name):
            raise DataError(f"{root}: the name {video.name!r} is not UTF-8; rename the file or its folder")
        if names[video.name] > 1:
            raise DataError(
                f"{video.path}: another video of this folder has the same name but for its ending; rename one"
            )
    return videos


def convert(videos: Sequence[Video], out: Path, *, workers: int, on_progress: OnProgress) -> Conversion:
    """Write images/ and ucf101_<split>.jsonl into `out`, taking up what an earlier run left there.

    A video that cannot be read is left out of the jsonl file and reported; nothing is raised for it.
    """
    images = out / "images"
    for leftover in [*images.glob(f"*/*/.*{_PARTIAL}"), *out.glob(".ucf101_*.jsonl.*")]:
        leftover.unlink()
    result = Conversion()
    unreadable: set[Video] = set()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="videos")
    try:
        todo = {pool.submit(_convert, video, images): video for video in videos}
        for done, future in enumerate(as_completed(todo), start=1):
            video = todo[future]
            try:
                outcome = future.result()
            except DataError as error:
                unreadable.add(video)
                result.unreadable.append(f"{video.path}: {error}")
            else:
                result.num_kept += outcome is None
                result.short += [f"{video.path}: {outcome}"] if outcome else []
            on_progress(done, len(videos))
    finally:
        pool.shutdown(cancel_futures=True)
    result.unreadable.sort()
    result.short.sort()
    question = VIDEO_CLASSES.replace("{question}", ", ".join(sorted({video.label for video in videos})))
    for split in SPLITS:
        lines = [
            json.dumps(_line(number, video, question)) + "\n"
            for number, video in enumerate(videos)
            if video.split == split and video not in unreadable
        ]
        if lines:
            write_atomically(out / f"ucf101_{split}.jsonl", "".join(lines))
            result.converted[split] = len(lines)
    return result


def _unpack(archive: tarfile.TarFile, into: Path) -> None:
    """Write the archive's files, and nothing outside the folder; links and devices are no videos.

    The filters of tarfile came with Python 3.11.4, and Debian 12 has an older one.
    """
    for member in archive:
        parts = Path(member.name).parts
        if not member.isfile():
            continue
        if Path(member.name).is_absolute() or ".." in parts:
            raise tarfile.TarError(f"{member.name!r} leads out of it")
        path = into.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(member)
        assert content is not None  # it is a file
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)


def convert_archive(archive: Path, out: Path, *, workers: int, on_progress: OnProgress) -> Conversion:
    """Convert a tar archive of videos into the folder `out`, which appears whole or not at all.

    Videos that cannot be read are left out and reported. Raises DataError where the archive cannot be read,
    or none of its videos can.
    """
    with building(out) as folder:
        videos = folder / "videos"
        try:
            with tarfile.open(archive) as members:
                _unpack(members, videos)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive}: not a whole tar archive: {error}; fetch it again") from error
        result = convert(find_videos(videos), folder, workers=workers, on_progress=on_progress)
        result.unreadable, result.short = (
            _named_in(videos, lines) for lines in (result.unreadable, result.short)
        )
        if not result.converted:
            raise DataError("\n".join([f"{archive}: none of its videos can be read", *result.unreadable]))
        shutil.rmtree(videos)
    return result


def _named_in(folder: Path, lines: list[str]) -> list[str]:
    """Lines that begin with a path in a folder, without that folder, which does not stay."""
    return [line.removeprefix(f"{folder}/") for line in lines]


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _root(folder: Path) -> Path | None:
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    candidates = [folder, *inside] if len(inside) == 1 else [folder]
    for candidate in candidates:
        if any((candidate / split).is_dir() for split in SPLITS):
            return candidate
    return None


def _videos_of(folder: Path) -> Iterator[Video]:
    for path in sorted(folder.glob("*/*")):
        is_hidden = path.name.startswith(".") or path.parent.name.startswith(".")
        if path.suffix.lower() in VIDEO_ENDINGS and not is_hidden:
            yield Video(folder.name, path.parent.name, path)


def _convert(video: Video, images: Path) -> str | None:
    """Write the pictures of a video; what is odd about it, or None if all of them were there already."""
    files = [images / name for name in video.pictures]
    if all(file.is_file() for file in files):
        return None
    frames = take_frames(video.path)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, frames.pictures, strict=True):
        _save(picture, file)
    if frames.num_decoded < NUM_FRAMES:
        return f"has {frames.num_decoded} frames, some are taken more than once"
    if frames.num_decoded < frames.num_stated:
        return f"says it has {frames.num_stated} frames, {frames.num_decoded} can be decoded"
    return ""


def _save(picture: Image.Image, file: Path) -> None:
    aside = file.with_name(f".{file.name}{_PARTIAL}")
    with writing_to(file):
        picture.save(aside, format="JPEG", quality=_JPEG_QUALITY)
        aside.replace(file)


def _line(number: int, video: Video, question: str) -> dict[str, object]:
    turn = {"images": video.pictures, "user": question, "assistant": video.label}
    return {"id": f"{video.split}-{number:010d}", "source": "ucf101", "conversations": [turn]}

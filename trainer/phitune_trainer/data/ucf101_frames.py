"""Still pictures from a video: the first frame of each of its eighths."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
from PIL import Image

from phitune_trainer.data.errors import DataError

NUM_FRAMES: Final = 8
"""Pictures of a video."""


@dataclass(frozen=True)
class VideoFrames:
    """What was taken from a video."""

    pictures: tuple[Image.Image, ...]
    """In RGB. A video of fewer frames gives some of them more than once."""
    num_decoded: int
    """Frames that the video has, counted by decoding them."""
    num_stated: int
    """Frames that its container says it has; 0 where it does not say."""


def take_frames(video: Path) -> VideoFrames:
    """Decode a video twice, to count its frames and then to keep frames i * count // 8.

    The container's own number is not used: it is often an estimate, or left from before the video was cut.
    Raises DataError (without a place) for a video that cannot be decoded from beginning to end.
    """
    try:
        return _take_frames(video)
    except av.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error
    except ValueError as error:  # a frame of a form that does not become a picture
        raise DataError(f"cannot be decoded: {error}") from error


def _take_frames(video: Path) -> VideoFrames:
    num_decoded = sum(1 for _ in _decode(video))
    if not num_decoded:
        raise DataError("has no frame that can be decoded")
    wanted = [number * num_decoded // NUM_FRAMES for number in range(NUM_FRAMES)]
    last = wanted[-1]
    kept: dict[int, Image.Image] = {}
    for number, frame in enumerate(_decode(video)):
        if number in wanted:
            kept[number] = Image.fromarray(frame.to_ndarray(format="rgb24"))
        if number == last:
            break
    return VideoFrames(tuple(kept[number] for number in wanted), num_decoded, _stated(video))


def _decode(video: Path) -> Iterator[av.VideoFrame]:
    """The frames of a video in order of time."""
    with av.open(str(video)) as container:
        stream = _stream(container)
        stream.codec_context.thread_count = 1  # one video a core is faster than several cores a video
        yield from container.decode(stream)


def _stated(video: Path) -> int:
    with av.open(str(video)) as container:
        return _stream(container).frames


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise DataError("has no video in it")
    return container.streams.video[0]

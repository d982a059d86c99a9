"""Builders of real videos: small, of frames that can be told apart."""

from pathlib import Path

import av
import numpy as np

SIZE = (48, 64)
"""Height and width in pixels."""


def write_video(path: Path, num_frames: int, *, codec: str = "mpeg4") -> Path:
    """A video whose frames grow from black to white, and its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            pixels = np.full((*SIZE, 3), grey(number, num_frames), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(number: int, num_frames: int) -> int:
    """The brightness of a frame, from 0 to 255."""
    return number * 255 // max(num_frames - 1, 1)

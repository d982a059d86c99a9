"""Pictures are scaled as published, and what is not a picture is refused."""

import math
import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from phitune_trainer.data import DataError
from phitune_trainer.data.pictures import find_picture, grid_for, load_picture, read_size, scale

torch.set_num_threads(1)


def gradient(width: int, height: int) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8000), st.integers(1, 8000), st.integers(1, 16))
@example(8000, 1, 16)
@example(1, 8000, 16)
@example(1, 1, 1)
@example(8000, 8000, 16)
def test_every_size_gives_a_grid_of_at_most_num_crops(width: int, height: int, num_crops: int) -> None:
    rows, columns = grid_for(width, height, num_crops=num_crops, crop_size=336)
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= num_crops
    assert grid_for(height, width, num_crops=num_crops, crop_size=336) == (columns, rows)
    if width >= height:
        wider = columns + 1
        assert wider * math.ceil(wider * height / width) > num_crops, "one more column would fit"


@pytest.mark.parametrize(
    ("size", "num_crops", "expected"),
    [
        pytest.param((500, 300), 4, (672, 672), id="landscape"),
        pytest.param((333, 777), 4, (672, 336), id="portrait"),
        pytest.param((850, 1100), 16, (1344, 1344), id="a page"),
        pytest.param((336, 336), 1, (336, 336), id="exactly one crop"),
        pytest.param((5000, 1), 4, (336, 1344), id="so flat that its height rounds to nothing"),
        pytest.param((1, 5000), 4, (1344, 336), id="so narrow that its width rounds to nothing"),
    ],
)
def test_a_picture_is_scaled_to_whole_crops(
    size: tuple[int, int], num_crops: int, expected: tuple[int, int]
) -> None:
    scaled = scale(gradient(*size), num_crops=num_crops, crop_size=336)
    assert scaled.shape == (*expected, 3)
    assert scaled.dtype == torch.uint8


def test_the_picture_is_in_the_middle_of_white() -> None:
    scaled = scale(Image.new("RGB", (100, 45)), num_crops=1, crop_size=28)
    is_black = (scaled == 0).all(dim=2).all(dim=1)
    assert is_black.nonzero().flatten().tolist() == list(range(8, 20))  # int(28 / (100 / 45)) = 12 rows
    assert (scaled[~is_black] == 255).all()


def test_a_portrait_is_its_mirrored_landscape() -> None:
    landscape = gradient(90, 40)
    portrait = landscape.transpose(Image.Transpose.TRANSPOSE)
    one, other = (scale(picture, num_crops=4, crop_size=28) for picture in (landscape, portrait))
    assert torch.equal(one.transpose(0, 1), other)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "HSV", "LAB"]
)
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert scale(Image.new(mode, (50, 30)), num_crops=1, crop_size=28).shape == (28, 28, 3)


def test_orientation_tags_are_not_looked_at(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    gradient(90, 40).save(tmp_path / "turned.png", exif=exif)
    gradient(90, 40).save(tmp_path / "plain.png")
    turned, plain = (
        load_picture(tmp_path / f"{name}.png", num_crops=4, crop_size=28) for name in ("turned", "plain")
    )
    assert torch.equal(turned, plain)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [9_500, 60_000])
def test_a_picture_that_would_fill_the_memory_is_refused(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    for read in (lambda: read_size(path), lambda: load_picture(path, num_crops=1, crop_size=28)):
        with pytest.raises(DataError, match=r"bomb\.png.*more than 89478485 pixels; scale it down"):
            read()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_truncated_picture_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"half.{suffix}"
    Image.effect_noise((200, 200), 50).convert("RGB").save(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match=rf"half\.{suffix}.*replace the file"):
        load_picture(path, num_crops=1, crop_size=28)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n"])
def test_what_is_not_a_picture_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.png.*not a picture that can be read; replace the file"):
        load_picture(path, num_crops=1, crop_size=28)


def test_pictures_are_found_inside_their_folder_only(tmp_path: Path) -> None:
    root, outside = tmp_path / "images", tmp_path / "secret.png"
    (root / "a").mkdir(parents=True)
    for path in (root / "a" / "b.png", outside):
        gradient(8, 8).save(path)
    (root / "out.png").symlink_to(outside)
    (root / "up").symlink_to(tmp_path)
    (root / "in.png").symlink_to(root / "a" / "b.png")
    os.mkfifo(root / "pipe.png")
    assert find_picture("a/b.png", root) == root / "a" / "b.png"
    assert find_picture("in.png", root) == root / "in.png"
    for name, problem in {
        "../secret.png": "without '..'",
        "a/../../secret.png": "without '..'",
        str(outside): "must be a path inside",
        "": "must be a path inside",
        "a\0b.png": "must be a path inside",
        "out.png": "a symbolic link leads out",
        "up/secret.png": "a symbolic link leads out",
        "none.png": "not found",
        "a": "is not a file",
        "pipe.png": "is not a file",
    }.items():
        with pytest.raises(DataError, match=problem):
            find_picture(name, root)


def test_a_linked_image_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    gradient(8, 8).save(tmp_path / "real" / "a.png")
    (tmp_path / "images").symlink_to(tmp_path / "real")
    assert find_picture("a.png", tmp_path / "images").is_file()

"""Pictures become the published bytes, bit for bit, and what is not one still picture is refused."""

import io
import math
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from harness.bombs import bomb
from phitune_trainer.data import DataError
from phitune_trainer.data.pictures import find_picture, grid_for, load_picture, read_size, scale
from phitune_trainer.model.pixels import crops_of
from trainerbench.published_pictures import pixel_values, resized_picture

torch.set_num_threads(1)

MODES = (
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "F", "I;16", "I;16L", "I;16B", "I;16N"),
)
"""Every mode of Pillow that it converts to RGB: La alone is left out, which no file has."""

CROP = 28

SIDES = st.integers(1, 300) | st.sampled_from([1, 2, CROP - 1, CROP, CROP + 1, 4 * CROP, 4 * CROP + 1])
LONG = st.tuples(st.integers(1, 8000), st.integers(1, 100))
SIZES = st.tuples(SIDES, SIDES) | LONG | LONG.map(lambda size: size[::-1])
"""Width and height; the few sizes that are large both ways are tried one by one."""


def gradient(width: int, height: int) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def noise(width: int, height: int, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Random pixels of any mode; the values of F and I lie on both sides of what a byte holds."""
    random = np.random.default_rng(seed)
    if mode in ("F", "I"):
        return Image.fromarray(
            random.uniform(-100, 400, (height, width)).astype("f4" if mode == "F" else "i4")
        )
    length = len(Image.new(mode, (width, height)).tobytes())
    picture = Image.frombytes(mode, (width, height), random.bytes(length))
    if mode in ("P", "PA"):
        picture.putpalette(random.bytes(768))
    return picture


def published_bytes(picture: Image.Image, *, num_crops: int, side: int = CROP) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Palette images with Transparency")
        return torch.from_numpy(np.array(resized_picture(picture, num_crops=num_crops, side=side)))


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(1, 16), st.integers(0, 99))
@example((1, 1), 16, 0)
@example((CROP, CROP), 1, 0)
@example((300, 17), 16, 0)
@example((17, 300), 16, 0)
def test_resized_bytes_are_the_published_ones(size: tuple[int, int], num_crops: int, seed: int) -> None:
    picture = noise(*size, seed=seed)
    scaled = scale(picture, num_crops=num_crops, crop_size=CROP)
    assert scaled.dtype == torch.uint8
    if scaled_height(*size, num_crops):
        assert torch.equal(scaled, published_bytes(picture, num_crops=num_crops))


def scaled_height(width: int, height: int, num_crops: int) -> int:
    """Pixels of the shorter side as published; 0 where the published code fails."""
    longer, shorter = max(width, height), min(width, height)
    columns = max(grid_for(width, height, num_crops=num_crops, crop_size=CROP))
    return int(columns * CROP / (longer / shorter))


@pytest.mark.parametrize(
    ("size", "num_crops"),
    [
        pytest.param((1700, 2200), 16, id="a page"),
        pytest.param((2200, 1700), 4, id="a page on its side"),
        pytest.param((640, 480), 16, id="enlarged"),
        pytest.param((8000, 12), 16, id="flat and wide"),
        pytest.param((7, 8000), 10, id="narrow and high"),
        pytest.param((8000, 8000), 1, id="the largest"),
        pytest.param((1, 1), 16, id="the smallest"),
    ],
)
def test_large_and_extreme_pictures_are_the_published_bytes(size: tuple[int, int], num_crops: int) -> None:
    picture = noise(50, 50, mode="L", seed=1).resize(size, Image.Resampling.BICUBIC)
    assert torch.equal(
        scale(picture, num_crops=num_crops, crop_size=336),
        published_bytes(picture, num_crops=num_crops, side=336),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(50, 30), (30, 50)], ids=["landscape", "portrait"])
def test_every_mode_gives_the_published_bytes(mode: str, size: tuple[int, int]) -> None:
    picture = noise(*size, mode=mode)
    assert torch.equal(scale(picture, num_crops=6, crop_size=CROP), published_bytes(picture, num_crops=6))


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [
        pytest.param("P", 3, id="one colour of a palette"),
        pytest.param("P", bytes(range(256)), id="a degree for each colour of a palette"),
        pytest.param("L", 3, id="one grey"),
        pytest.param("1", 0, id="black"),
        pytest.param("RGB", (1, 2, 3), id="one colour"),
    ],
)
def test_transparency_is_left_out_as_published_and_without_a_warning(
    mode: str, transparency: object, tmp_path: Path
) -> None:
    noise(50, 30, mode=mode).save(tmp_path / "a.png", transparency=transparency)
    with Image.open(tmp_path / "a.png") as picture:
        assert "transparency" in picture.info
        expected = published_bytes(picture, num_crops=6)
    assert torch.equal(load_picture(tmp_path / "a.png", num_crops=6, crop_size=CROP), expected)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 16))
@example((300, 300), 16)
def test_normalised_values_are_the_published_ones(size: tuple[int, int], num_crops: int) -> None:
    assume(scaled_height(*size, num_crops))
    picture = noise(*size)
    published = pixel_values(
        resized_picture(picture, num_crops=num_crops, side=CROP), num_crops=num_crops, side=CROP
    )
    crops = crops_of(scale(picture, num_crops=num_crops, crop_size=CROP), CROP)
    torch.testing.assert_close(crops, published[: len(crops)], rtol=0, atol=1e-6)
    assert not published[len(crops) :].any()


def test_normalised_values_of_a_page_are_the_published_ones() -> None:
    page = noise(170, 220).resize((1700, 2200))
    published = pixel_values(resized_picture(page, num_crops=16), num_crops=16)
    crops = crops_of(scale(page, num_crops=16, crop_size=336), 336)
    torch.testing.assert_close(crops, published[: len(crops)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8000, 1), (300, 1), (5000, 7)])
def test_a_picture_too_flat_for_the_published_steps_becomes_one_pixel_high(size: tuple[int, int]) -> None:
    picture = noise(*size)
    with pytest.raises(ValueError, match="height and width must be > 0"):
        published_bytes(picture, num_crops=4)
    scaled = scale(picture, num_crops=4, crop_size=CROP)
    assert scaled.shape == (CROP, 4 * CROP, 3)
    top = (CROP - 1) // 2
    row = picture.resize((4 * CROP, 1), Image.Resampling.BILINEAR)
    assert torch.equal(scaled[top], torch.from_numpy(np.array(row))[0])
    assert (torch.cat([scaled[:top], scaled[top + 1 :]]) == 255).all()
    turned = scale(picture.transpose(Image.Transpose.TRANSPOSE), num_crops=4, crop_size=CROP)
    assert torch.equal(turned.transpose(0, 1), scaled)


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_treated_as_published(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = noise(90, 40)
    for suffix in ("png", "jpg", "webp", "tiff"):
        path = tmp_path / f"turned.{suffix}"
        upright.save(path, exif=exif, quality=100)
        with Image.open(path) as picture:
            assert picture.getexif()[0x0112] == orientation
            width, height = read_size(path)
            expected = published_bytes(picture, num_crops=4)
        assert torch.equal(load_picture(path, num_crops=4, crop_size=CROP), expected)
        rows, columns = grid_for(width, height, num_crops=4, crop_size=CROP)
        assert expected.shape == (rows * CROP, columns * CROP, 3)
        if suffix != "tiff":  # Pillow itself turns this one when it is opened, for the published code too
            assert (width, height) == (90, 40), "the tag is not looked at"


def test_the_picture_given_stays_as_it_was() -> None:
    picture = noise(30, 50, mode="P")
    picture.info["transparency"] = bytes(256)
    before = picture.copy()
    scale(picture, num_crops=4, crop_size=CROP)
    assert picture == before


def huge_jpeg() -> bytes:
    """A JPEG of a few bytes that claims to be 65,500 pixels wide and high."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", 65_500, 65_500) + content[at + 4 :]


def huge_gif() -> bytes:
    """A GIF of a few bytes that claims to be 65,535 pixels wide and high."""
    screen = struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
    return b"GIF89a" + screen + frame + b"\x08\x00;"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(bomb(9_500, 9_500), id="a little too large"),
        pytest.param(bomb(60_000, 60_000), id="far too large"),
        pytest.param(bomb(2**31 - 1, 1), id="a line"),
        pytest.param(huge_jpeg(), id="JPEG"),
        pytest.param(huge_gif(), id="GIF"),
    ],
)
def test_a_picture_that_would_fill_the_memory_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(content)
    for read in (lambda: read_size(path), lambda: load_picture(path, num_crops=1, crop_size=28)):
        with pytest.raises(DataError, match=r"bomb'.*more than 89478485 pixels; scale it down"):
            read()


def test_the_largest_pictures_that_are_meant_to_be_read_are_not_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bomb(8_000, 8_000))
    assert read_size(tmp_path / "a.png") == (8_000, 8_000)


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (0, 0)])
def test_a_picture_without_a_pixel_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "nothing.png"
    path.write_bytes(bomb(*size))
    with pytest.raises(DataError, match=r"nothing\.png.*not a picture that can be read"):
        load_picture(path, num_crops=1, crop_size=28)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_a_file_of_several_pictures_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"film.{suffix}"
    gradient(40, 30).save(path, save_all=True, append_images=[noise(40, 30)])
    for read in (lambda: read_size(path), lambda: load_picture(path, num_crops=1, crop_size=28)):
        with pytest.raises(DataError, match=rf"film\.{suffix}.*several frames or pages; save each"):
            read()


def test_a_photograph_with_previews_beside_it_is_its_main_picture(tmp_path: Path) -> None:
    noise(40, 30).save(tmp_path / "camera.jpg", "MPO", save_all=True, append_images=[gradient(8, 6)])
    noise(40, 30).save(tmp_path / "plain.jpg", "JPEG")
    photograph, plain = (
        load_picture(tmp_path / f"{name}.jpg", num_crops=4, crop_size=28) for name in ("camera", "plain")
    )
    assert torch.equal(photograph, plain)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_picture_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"part.{suffix}"
    Image.effect_noise((200, 200), 50).convert("RGB").save(path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DataError, match=rf"part\.{suffix}.*replace the file"):
        load_picture(path, num_crops=1, crop_size=28)


def test_a_picture_may_be_given_as_the_content_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(90, 40).save(path)
    content = path.read_bytes()
    assert read_size(content) == (90, 40)
    assert torch.equal(
        load_picture(content, num_crops=4, crop_size=CROP), load_picture(path, num_crops=4, crop_size=CROP)
    )
    with pytest.raises(DataError, match=r"^picture: cannot be decoded \(.*\); replace the file$"):
        load_picture(content[: len(content) // 2], num_crops=4, crop_size=CROP)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n"])
def test_what_is_not_a_picture_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.png.*not a picture that can be read; replace the file"):
        load_picture(path, num_crops=1, crop_size=28)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "PCX", "ICO", "JPEG2000"])
def test_other_formats_are_refused_whatever_the_name_says_and_no_program_is_started(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "a.jpg"
    noise(40, 30).save(path, kind)
    for read in (lambda: read_size(path), lambda: load_picture(path, num_crops=1, crop_size=28)):
        with pytest.raises(DataError, match=r"a\.jpg.*not a picture that can be read"):
            read()
    assert not started.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_the_documented_formats_are_read_whatever_their_name(kind: str, tmp_path: Path) -> None:
    noise(40, 30).save(tmp_path / "a", kind)
    assert read_size(tmp_path / "a") == (40, 30)
    assert load_picture(tmp_path / "a", num_crops=1, crop_size=28).shape == (28, 28, 3)


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

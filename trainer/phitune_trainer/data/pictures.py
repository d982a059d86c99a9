"""Pictures as published: opened, scaled to the most crops that fit, padded with white. Bytes in, bytes out.

The value range and the cutting into crops come later, on the device (`model/pixels.py`).
"""

import math
import os
import stat
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from phitune_trainer.data.errors import DataError
from phitune_trainer.data.whole import looks_cut
from phitune_trainer.errors import raise_if_out_of_reach

MAX_PIXELS = 89_478_485
"""Larger pictures are refused: a small file can hold one that fills the memory. Pillow warns from here on."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats of Pillow that are tried. It knows some thirty more, of which EPS starts a program."""

_WHITE = 255
_JPEG_WITH_PREVIEWS = "MPO"
"""What cameras write: the first of its frames is the picture, the others are previews or other views."""


def find_picture(name: str, root: Path) -> Path:
    """The file of a picture that the data names relative to `root`.

    Raises DataError (without a place) for a name that leaves the folder, also by a symbolic link, or is not a
    file.
    """
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"picture {name!r}: must be a path inside the images folder {root}, without '..'")
    path = root / name
    try:
        if _is_plain_file(path, root):
            return path
        real, real_root = (os.path.join(os.path.realpath(each), "") for each in (path, root))
        is_file = path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise_if_out_of_reach(error, path)
        raise DataError(
            f"picture {name!r}: cannot be looked up: {error.strerror}; looked for {path}"
        ) from error
    if not real.startswith(real_root):
        raise DataError(
            f"picture {name!r}: a symbolic link leads out of the images folder {root}; copy the file"
        )
    if not is_file:
        what = "is not a file" if path.exists() else "not found"
        raise DataError(f"picture {name!r}: {what}; looked for {path}")
    return path


def _is_plain_file(path: Path, root: Path) -> bool:
    """Whether a path is a file with no symbolic link below `root`: then it cannot lead out of it.

    False says nothing. Resolving both paths would tell too, at several times the cost.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    folders = list(path.parents)[: len(path.parts) - len(root.parts) - 1]
    return not any(map(os.path.islink, folders))


def examine_file(path: Path) -> tuple[int, int, bool]:
    """Width and height in pixels, and whether the file looks cut short (whole.py), by opening it once.

    Nothing is decoded. Raises DataError (without a place).
    """
    with _open(path) as picture:
        width, height = picture.size
        return width, height, picture.fp is not None and looks_cut(picture.fp)


def read_size(source: Path | bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of a file or of its content alone.

    Raises DataError (without a place).
    """
    with _open(source) as picture:
        return picture.size


def load_picture(source: Path | bytes, *, num_crops: int, crop_size: int) -> Tensor:
    """Decode a file or its content and scale it: bytes (H, W, 3). Raises DataError (without a place)."""
    with _open(source) as picture:
        try:
            picture.load()
            colours = _grey_or_rgb(picture)
        except MemoryError:
            raise
        except Exception as error:  # each decoder raises its own: OSError, SyntaxError, struct.error, ...
            raise_if_out_of_reach(error, source)
            raise DataError(f"{_name(source)}: cannot be decoded ({error}); replace the file") from error
        return scale(colours, num_crops=num_crops, crop_size=crop_size)


def grid_for(width: int, height: int, *, num_crops: int, crop_size: int) -> tuple[int, int]:
    """Rows and columns of crops that a picture of this size is scaled to, at most `num_crops` in all."""
    if width < height:
        columns, rows = grid_for(height, width, num_crops=num_crops, crop_size=crop_size)
        return rows, columns
    scaled_width, scaled_height = _scaled_size(width, height, num_crops, crop_size)
    return math.ceil(scaled_height / crop_size), scaled_width // crop_size


def scale(picture: Image.Image, *, num_crops: int, crop_size: int) -> Tensor:
    """Scale to the most crops that fit, keeping proportions, and pad to whole crops: bytes (H, W, 3).

    The bytes are those of the published steps, which convert to RGB, lay a portrait on its side (mirrored at
    the diagonal), scale, pad above and below, and turn back. Orientation tags (EXIF) are not looked at. A
    picture so flat that its height would round to nothing, where the published steps fail, becomes one pixel
    high.
    """
    colours = _grey_or_rgb(picture)
    if picture.width < picture.height:
        height, width = _scaled_size(picture.height, picture.width, num_crops, crop_size)
        # Pillow scales across, then down, with whole bytes in between. A portrait on its side would have had
        # that the other way round, and doing so by two calls is cheaper than laying it on its side.
        colours = colours.resize((colours.width, height), Image.Resampling.BILINEAR)
    else:
        width, height = _scaled_size(picture.width, picture.height, num_crops, crop_size)
    colours = colours.resize((width, height), Image.Resampling.BILINEAR)
    if colours.mode == "L":
        colours = colours.convert("RGB")
    rows, columns = math.ceil(height / crop_size), math.ceil(width / crop_size)
    padded = np.full((rows * crop_size, columns * crop_size, 3), _WHITE, dtype=np.uint8)
    top, left = (len(padded) - height) // 2, (padded.shape[1] - width) // 2
    padded[top : top + height, left : left + width] = np.asarray(colours)
    return torch.from_numpy(padded)


def _grey_or_rgb(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB, with the values that a conversion to RGB gives, copied only if need be.

    Grey is scaled as one channel rather than as three equal ones.
    """
    if picture.mode in ("L", "RGB"):
        return picture
    if "transparency" in picture.info:
        picture = picture.copy()
        del picture.info["transparency"]  # it does not change colours; Pillow would warn that it gets lost
    return picture.convert("L" if picture.mode in ("1", "LA") else "RGB")


def _scaled_size(width: int, height: int, num_crops: int, crop_size: int) -> tuple[int, int]:
    """Width and height, in pixels, of a landscape after scaling; the width is a whole number of crops."""
    ratio = width / height
    columns = 1
    while (columns + 1) * math.ceil((columns + 1) / ratio) <= num_crops:
        columns += 1
    return columns * crop_size, max(1, int(columns * crop_size / ratio))


def _open(source: Path | bytes) -> ImageFile.ImageFile:
    try:
        opened = BytesIO(source) if isinstance(source, bytes) else source
        picture = Image.open(opened, formats=FORMATS)
        is_animated = getattr(picture, "is_animated", False)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(source) from error
    except MemoryError:
        raise
    except Exception as error:  # as in load_picture
        raise_if_out_of_reach(error, source)
        raise DataError(f"{_name(source)}: not a picture that can be read; replace the file") from error
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise _too_large(source)
    if is_animated and picture.format != _JPEG_WITH_PREVIEWS:
        picture.close()
        raise DataError(
            f"{_name(source)}: has several frames or pages; save each one that is meant to a file"
        )
    return picture


def _too_large(source: Path | bytes) -> DataError:
    return DataError(f"{_name(source)}: has more than {MAX_PIXELS} pixels; scale it down")


def _name(source: Path | bytes) -> str:
    """How messages name a picture: a file by its path; where content comes from, the caller knows."""
    return "picture" if isinstance(source, bytes) else f"picture {str(source)!r}"

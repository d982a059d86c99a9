"""Pictures as published: opened, scaled to the most crops that fit, padded with white. Bytes in, bytes out.

The value range and the cutting into crops come later, on the device (`model/pixels.py`).
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phitune_trainer.data.errors import DataError

MAX_PIXELS = 89_478_485
"""Larger pictures are refused: a small file can hold one that fills the memory. Pillow warns from here on."""

_WHITE = (255, 255, 255)


def find_picture(name: str, root: Path) -> Path:
    """The file of a picture that the data names relative to `root`.

    Raises DataError (without a place) for a name that leaves the folder, also by a symbolic link, or is not a
    file.
    """
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"picture {name!r}: must be a path inside the images folder {root}, without '..'")
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"picture {name!r}: a symbolic link leads out of the images folder {root}; copy the file"
        )
    if not path.is_file():
        what = "is not a file" if path.exists() else "not found"
        raise DataError(f"picture {name!r}: {what}; looked for {path}")
    return path


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the header alone. Raises DataError (without a place)."""
    with _open(path) as picture:
        return picture.size


def load_picture(path: Path, *, num_crops: int, crop_size: int) -> Tensor:
    """Decode a picture and scale it: bytes (H, W, 3). Raises DataError (without a place)."""
    with _open(path) as picture:
        try:
            picture.load()
            return scale(picture, num_crops=num_crops, crop_size=crop_size)
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # each decoder raises its own kinds: OSError, SyntaxError, struct.error, ...
            raise DataError(
                f"picture {str(path)!r}: cannot be decoded ({error}); replace the file"
            ) from error


def grid_for(width: int, height: int, *, num_crops: int, crop_size: int) -> tuple[int, int]:
    """Rows and columns of crops that a picture of this size is scaled to, at most `num_crops` in all."""
    if width < height:
        columns, rows = grid_for(height, width, num_crops=num_crops, crop_size=crop_size)
        return rows, columns
    scaled_width, scaled_height = _scaled_size(width, height, num_crops, crop_size)
    return math.ceil(scaled_height / crop_size), scaled_width // crop_size


def scale(picture: Image.Image, *, num_crops: int, crop_size: int) -> Tensor:
    """Scale to the most crops that fit, keeping proportions, and pad to whole crops: bytes (H, W, 3).

    A portrait is laid on its side first, so that the arithmetic is that of a landscape. Orientation tags
    (EXIF) are not looked at. A picture so flat that its height would round to nothing becomes one pixel high.
    """
    picture = picture.convert("RGB")
    is_portrait = picture.width < picture.height
    if is_portrait:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    width, height = _scaled_size(picture.width, picture.height, num_crops, crop_size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    padded_height = math.ceil(height / crop_size) * crop_size
    padded = Image.new("RGB", (width, padded_height), _WHITE)
    padded.paste(picture, (0, (padded_height - height) // 2))
    if is_portrait:
        padded = padded.transpose(Image.Transpose.TRANSPOSE)
    return torch.from_numpy(np.array(padded))


def _scaled_size(width: int, height: int, num_crops: int, crop_size: int) -> tuple[int, int]:
    """Width and height, in pixels, of a landscape after scaling; the width is a whole number of crops."""
    ratio = width / height
    columns = 1
    while (columns + 1) * math.ceil((columns + 1) / ratio) <= num_crops:
        columns += 1
    return columns * crop_size, max(1, int(columns * crop_size / ratio))


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(path) from error
    except MemoryError:
        raise
    except Exception as error:  # as in load_picture
        raise DataError(f"picture {str(path)!r}: not a picture that can be read; replace the file") from error
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise _too_large(path)
    return picture


def _too_large(path: Path) -> DataError:
    return DataError(f"picture {str(path)!r}: has more than {MAX_PIXELS} pixels; scale it down")

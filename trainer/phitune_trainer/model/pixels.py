"""From the bytes of a resized picture to the crops that CLIP sees, on the device that runs CLIP.

Pictures stay bytes until here, a quarter of the size on their way from the data workers to the device.
"""

import torch
from torch import Tensor
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def crops_of(picture: Tensor, crop_size: int) -> Tensor:
    """Bytes (H, W, 3), both multiples of the crop size -> (1 + H/crop_size * W/crop_size, 3, crop_size,
    crop_size).

    The first crop is the whole picture, bicubic without antialiasing as published; then the crops by rows.
    float32.
    """
    pixels = normalize(picture)
    rows, columns = grid_of(picture, crop_size)
    crops = pixels.new_empty(1 + rows * columns, 3, crop_size, crop_size)
    crops[0] = functional.interpolate(pixels[None], size=(crop_size, crop_size), mode="bicubic")[0]
    parts = pixels.view(3, rows, crop_size, columns, crop_size).permute(1, 3, 0, 2, 4)
    crops[1:].view_as(parts).copy_(parts)
    return crops


def normalize(picture: Tensor) -> Tensor:
    """Bytes (H, W, 3) -> (3, H, W) float32, by CLIP's mean and deviation of each channel."""
    # Numbers rather than tensors of three: those would have to be copied to the device, which waits for it.
    channels = zip(picture.unbind(-1), CLIP_MEAN, CLIP_STD, strict=True)
    return torch.stack([channel.float().div_(255).sub_(mean).div_(std) for channel, mean, std in channels])


def grid_of(picture: Tensor, crop_size: int) -> tuple[int, int]:
    """Rows and columns of crops in a picture (H, W, 3)."""
    height, width, _ = picture.shape
    return height // crop_size, width // crop_size

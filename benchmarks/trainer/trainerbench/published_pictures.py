"""The published preparation of a picture, step by step and without any saving: what ours is compared with.

Written from what the published processor does (`processing_phi3_v.py` of Phi-3.5-vision), with its
arithmetic. The unit tests hold the trainer against it, and `preprocess_speedup` measures it. It takes nothing
from the trainer, so that the two cannot agree by sharing a mistake.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def resized_picture(picture: Image.Image, *, num_crops: int, side: int = 336) -> Image.Image:
    """Convert, scale to crops of `side` pixels, pad with white. Fails where the height rounds to nothing."""
    picture = picture.convert("RGB")
    is_turned = picture.width < picture.height
    if is_turned:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    ratio = picture.width / picture.height
    scale = 1
    while scale * np.ceil(scale / ratio) <= num_crops:
        scale += 1
    scale -= 1
    width = int(scale * side)
    height = int(width / ratio)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    padded_height = int(np.ceil(height / side) * side)
    padded = Image.new("RGB", (width, padded_height), (255, 255, 255))
    padded.paste(picture, (0, int((padded_height - height) / 2)))
    return padded.transpose(Image.Transpose.TRANSPOSE) if is_turned else padded


def pixel_values(padded: Image.Image, *, num_crops: int, side: int = 336) -> Tensor:
    """Normalised global view and crops, then crops of zeros: (1 + num_crops, 3, side, side) float32."""
    values = torch.from_numpy(np.array(padded)).permute(2, 0, 1).contiguous()
    values = values.to(torch.float32).div(255)
    values = values.clone().sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])
    whole = torch.nn.functional.interpolate(values[None], size=(side, side), mode="bicubic")
    _, height, width = values.shape
    rows, columns = height // side, width // side
    crops = values.reshape(1, 3, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    crops = torch.cat([whole, crops.reshape(-1, 3, side, side).contiguous()])
    missing = 1 + num_crops - len(crops)
    if missing:
        crops = torch.cat([crops, torch.zeros(missing, 3, side, side)])
    return torch.stack([crops])[0]

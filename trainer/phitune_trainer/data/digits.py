"""scikit-learn's handwritten digits as a data set of real pictures: no download, learned in seconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from phitune_trainer.folders import building, is_filled

QUESTION = "Which digit is this? Answer with one digit."
NUM_HELD_OUT = 300
PICTURE_SIZE = 84
"""Height and width in pixels; the originals are 8 x 8."""

_SPLIT_SEED = 0
_DARKEST = 16  # the value of full ink in the originals


def generate_digits(out: Path, *, replace: bool = False) -> None:
    """Write `train.jsonl`, `eval.jsonl` (300 held-out pictures) and `images/` into the folder `out`.

    The same bytes every time. A folder that holds anything is left as it is, unless it is to be replaced; a
    half-written one is never seen under its name.
    """
    if is_filled(out) and not replace:
        return
    from sklearn.datasets import load_digits  # takes a second to import, and only this needs it

    digits = load_digits()
    order = np.random.PCG64(_SPLIT_SEED).random_raw(len(digits.images)).argsort(kind="stable")
    parts = {"eval": order[:NUM_HELD_OUT], "train": order[NUM_HELD_OUT:]}
    with building(out, replace=replace) as folder:
        (folder / "images").mkdir()
        for part, indices in parts.items():
            lines = []
            for index in indices:
                name = f"{part}-{index:04d}.png"
                _picture(digits.images[index]).save(folder / "images" / name)
                lines.append(json.dumps(_record(name, str(digits.target[index]))))
            (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _picture(ink: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Image.Image:
    grey = (255 * (1 - ink / _DARKEST)).round().astype(np.uint8)
    return Image.fromarray(grey).resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BILINEAR)


def _record(image: str, digit: str) -> dict[str, object]:
    turn = {"images": [image], "user": QUESTION, "assistant": digit}
    return {"id": image.removesuffix(".png"), "source": "scikit-learn digits", "conversations": [turn]}

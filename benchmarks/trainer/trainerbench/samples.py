"""Made data sets: conversations of several turns and pictures, as a jsonl file and its images folder."""

import json
from pathlib import Path

NUM_FILES = 500
PICTURES_EACH = 3


def write_samples(folder: Path, count: int) -> Path:
    """Write `count` samples of three pictures and two turns each; the jsonl file, beside `images/`.

    The pictures are JPEG files of different sizes, each used by many samples, so that the disk does not fill.
    """
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    names = [f"frames/{number:04d}.jpg" for number in range(NUM_FILES)]
    (folder / "images" / "frames").mkdir(parents=True)
    for name in names:
        width, height = (int(side) for side in random.integers(60, 200, 2))
        patches = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(patches).resize((width, height)).save(folder / "images" / name)
    file = folder / "train.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            chosen = [names[(number * PICTURES_EACH + part) % NUM_FILES] for part in range(PICTURES_EACH)]
            lines.write(json.dumps(_record(number, chosen)) + "\n")
    return file


def _record(number: int, pictures: list[str]) -> dict[str, object]:
    turns = [
        {
            "images": pictures[:2],
            "user": f"What differs between these two pictures, and which of them is sample {number}?",
            "assistant": "The first one has other colours than the second one, and neither has a number.",
        },
        {
            "images": pictures[2:],
            "user": "And here? Answer briefly.",
            "assistant": "Again other colours.",
        },
    ]
    return {"id": f"sample-{number}", "source": "made", "conversations": turns}

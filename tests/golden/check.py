"""Run the model and the processor against golden vectors: `python tests/golden/check.py FOLDER`.

Each case of FOLDER is computed on the reduced model of `tests/golden/README.md`, with the published tokenizer
and configuration from the folder in PHITUNE_TOKENIZER or from `../shared/phi-3.5-vision` beside the
repository. A line a case shows the largest deviations. The exit code is 0 only if there is a case and all are
within the tolerances.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phitune_trainer.data import Processor, Sample, collate
from phitune_trainer.data.pictures import scale
from phitune_trainer.model import ModelConfig, ModelFilesError, Phi3V, VisionConfig
from phitune_trainer.model.pixels import crops_of

TOLERANCES = {
    "ids": 0.0,
    "image_sizes": 0.0,
    "pixels": 1e-6,
    "pixel_means": 1e-5,
    "logits": 1e-4,
    "loss": 1e-4,
    "grad_norms": 1e-3,
}
"""Largest deviation allowed: a count of differing ids and sizes, absolute values, relative gradient norms."""
KEY_BIAS_FLOOR = 1e-5
"""Share of the largest gradient norm below which one is rounding noise: a key's bias changes nothing."""

PROJECT = Path(__file__).resolve().parents[2]

Case = dict[str, Any]


def tokenizer_folder() -> Path:
    """Where the published tokenizer and configuration are to be found."""
    return Path(os.environ.get("PHITUNE_TOKENIZER") or PROJECT.parent / "shared" / "phi-3.5-vision")


def reduced_model(folder: Path) -> Phi3V:
    """The published configuration, made small, with weights made by rule."""
    config = dataclasses.replace(
        ModelConfig.from_folder(folder),
        num_layers=2,
        hidden_size=192,
        num_heads=2,
        intermediate_size=256,
        vision=VisionConfig(num_layers=3, intermediate_size=256),
    )
    model = Phi3V(config)
    model.load_state_dict({name: weight_by_rule(name, x.shape) for name, x in model.state_dict().items()})
    return model


def weight_by_rule(name: str, shape: torch.Size) -> Tensor:
    """The value that the golden vectors' weights have by their names."""
    source = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = source.standard_normal(tuple(shape), dtype=np.float32) * np.float32(0.05)
    is_norm = (
        name.endswith(("norm.weight", "pre_layrnorm.weight"))
        or "layernorm.weight" in name
        or ("layer_norm" in name and name.endswith("weight"))
    )
    return torch.from_numpy(values + np.float32(is_norm))


def picture_by_rule(seed: int, width: int, height: int) -> Image.Image:
    """A picture of coloured squares of 32 pixels."""
    source = np.random.Generator(np.random.PCG64(seed))
    cells = source.integers(0, 256, (math.ceil(height / 32), math.ceil(width / 32), 3), dtype=np.uint8)
    pixels = np.kron(cells, np.ones((32, 32, 1), dtype=np.uint8))
    return Image.fromarray(pixels[:height, :width])


def sample_of(case: Case, processor: Processor) -> Sample:
    """The case's pictures, prompt and answer, the answer labelled."""
    crop_size = processor.vision.image_size
    pictures = tuple(
        scale(picture_by_rule(*spec), num_crops=case["num_crops"], crop_size=crop_size)
        for spec in case["images"]
    )
    counts = [processor.picture_tokens(picture) for picture in pictures]
    prompt = processor.tokenize_prompt(case["prompt"], counts)
    answer = processor.tokenizer.encode(case["answer"], begin=False)
    return Sample(
        input_ids=torch.tensor(prompt + answer),
        labels=torch.tensor([-100] * len(prompt) + answer),
        pictures=pictures,
    )


def deviations(case: Case, model: Phi3V, processor: Processor) -> dict[str, float]:
    """The largest deviation of each kind in one case."""
    sample = sample_of(case, processor)
    measured = {"ids": _ids_deviation(case, sample)}
    if case["images"]:
        sizes = [list(picture.shape[:2]) for picture in sample.pictures]
        measured["image_sizes"] = float(sizes != case["image_sizes"])
        measured.update(_pixel_deviations(case, sample, processor.vision.image_size))
    return measured | _model_deviations(case, sample, model)


def _ids_deviation(case: Case, sample: Sample) -> float:
    runs = [[key, len(list(run))] for key, run in itertools.groupby(sample.input_ids.tolist())]
    same_length = sample.num_label_tokens == case["answer_tokens"]
    differing = sum(a != b for a, b in itertools.zip_longest(runs, case["input_ids_run_length"]))
    return float(differing + (not same_length))


def _pixel_deviations(case: Case, sample: Sample, crop_size: int) -> dict[str, float]:
    # The published code pads every picture with zero crops; ours are compared with zeros where it did.
    padded = torch.zeros(case["pixel_values_shape"])
    for number, picture in enumerate(sample.pictures):
        crops = crops_of(picture, crop_size)
        padded[number, : len(crops)] = crops
    samples = [abs(float(padded[tuple(place)]) - value) for place, value in case["pixel_samples"]]
    means = padded.mean(dim=(2, 3, 4)) - torch.tensor(case["pixel_mean_per_crop"])
    return {"pixels": max(samples), "pixel_means": float(means.abs().max())}


def _model_deviations(case: Case, sample: Sample, model: Phi3V) -> dict[str, float]:
    batch = collate([sample])
    model.zero_grad(set_to_none=True)
    outputs: list[Tensor] = []
    hook = model.model.norm.register_forward_hook(
        lambda module, args, output: outputs.append(output.detach())
    )
    loss = model(batch) / batch.num_label_tokens
    hook.remove()
    loss.backward()
    norms = {
        name: float(parameter.grad.norm())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    with torch.no_grad():
        hidden = outputs[0]
        at = model.lm_head(hidden[case["logit_positions"]])
        sums = torch.cat([model.lm_head(part).logsumexp(-1) for part in hidden.split(1024)])
    best = at[torch.arange(len(at)), case["logits_argmax"]]
    logits = [
        (at[:, :16] - torch.tensor(case["logits_first_16"])).abs().max(),
        (at.logsumexp(-1) - torch.tensor(case["logits_logsumexp"])).abs().max(),
        (at.max(dim=-1).values - best).max(),
        (sums.mean() - case["all_logsumexp_mean"]).abs(),
    ]
    return {
        "logits": max(float(x) for x in logits),
        "loss": abs(float(loss.detach()) - case["loss"]),
        "grad_norms": _norm_deviation(norms, case["grad_norm"]),
    }


def _norm_deviation(ours: dict[str, float], published: dict[str, float]) -> float:
    """Largest relative deviation; infinite where one side trains what the other does not."""
    silent = {name for name, norm in ours.items() if norm == 0}
    if ours.keys() - silent != {name for name, norm in published.items() if norm != 0}:
        return math.inf
    floor = KEY_BIAS_FLOOR * max(published.values())
    return max(abs(ours[name] - norm) / max(norm, floor) for name, norm in published.items() if norm != 0)


def check_folder(folder: Path, model: Phi3V, processor: Processor, say: Callable[[str], None]) -> bool:
    """Check every case of a folder; whether there was one and all are within the tolerances."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        say(f"{folder}: no case (*.json) here")
    passed = bool(paths)
    for path in paths:
        try:
            case = json.loads(path.read_text(encoding="utf-8"))
            measured = deviations(case, model, processor)
        except Exception as error:  # noqa: BLE001 - the other cases are to be run whatever is wrong with this one
            say(f"FAIL {path.stem}: could not run: {type(error).__name__}: {error}")
            passed = False
            continue
        beyond = [name for name, value in measured.items() if not value <= TOLERANCES[name]]
        line = ", ".join(f"{name} {value:.1e}" if value else f"{name} 0" for name, value in measured.items())
        say(
            f"{'FAIL' if beyond else 'ok  '} {path.stem}: {line}"
            + (f" (beyond: {', '.join(beyond)})" if beyond else "")
        )
        passed = passed and not beyond
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the model and the processor against golden vectors.")
    parser.add_argument("folder", type=Path, help="folder of golden cases, one JSON file each")
    folder = parser.parse_args().folder
    tokenizer = tokenizer_folder()
    try:
        model, processor = reduced_model(tokenizer), Processor.load(tokenizer, num_crops=16)
    except ModelFilesError as error:
        print(f"{error}; set PHITUNE_TOKENIZER to the folder of the published tokenizer and configuration")
        return 1
    return 0 if check_folder(folder, model, processor, print) else 1


if __name__ == "__main__":
    sys.exit(main())

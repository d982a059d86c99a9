"""Run the model and the processor against golden vectors: `python tests/golden/check.py FOLDER`.

Each case of FOLDER, also of folders in it, is computed on the reduced model of `tests/golden/README.md`, with
the published tokenizer and configuration from the folder in PHITUNE_TOKENIZER or from
`../shared/phi-3.5-vision` beside the repository. A line a case shows the largest deviations. The exit code is
0 only if there is a case, all could be run and all are within the tolerances.
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
from phitune_trainer.model import Phi3V
from phitune_trainer.model.inputs import IGNORED
from phitune_trainer.model.pixels import crops_of
from phitune_trainer.model_config import ModelConfig, ModelFilesError, VisionConfig

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
"""Share of the largest gradient norm that the bias of CLIP's keys is held against: its gradient is rounding
noise, since a constant added to all scores of a query changes nothing."""

_OF_ALL = (
    "num_crops",
    "images",
    "prompt",
    "answer",
    "answer_tokens",
    "input_ids_run_length",
    "loss",
    "logit_positions",
    "logits_first_16",
    "logits_argmax",
    "logits_logsumexp",
    "grad_norm",
)
_OF_PICTURES = ("image_sizes", "pixel_values_shape", "pixel_samples", "pixel_mean_per_crop")

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
    """The case's pictures, prompt and answer; its last `answer_tokens` tokens labelled."""
    crop_size = processor.vision.image_size
    pictures = tuple(
        scale(picture_by_rule(*spec), num_crops=case["num_crops"], crop_size=crop_size)
        for spec in case["images"]
    )
    counts = [processor.picture_tokens(picture) for picture in pictures]
    prompt = processor.tokenize_prompt(case["prompt"], counts)
    input_ids = torch.tensor(prompt + processor.tokenizer.encode(case["answer"], begin=False))
    num_answer_tokens = case["answer_tokens"]
    if not 0 < num_answer_tokens < len(input_ids):
        raise ValueError(f"answer_tokens is {num_answer_tokens}, of {len(input_ids)} tokens in all")
    labels = torch.full_like(input_ids, IGNORED)
    labels[-num_answer_tokens:] = input_ids[-num_answer_tokens:]
    return Sample(input_ids=input_ids, labels=labels, pictures=pictures)


def check_form(case: Any) -> None:
    """Raise ValueError for what cannot be a case, with what it lacks."""
    if not isinstance(case, dict):
        raise ValueError(f"a case is a JSON object, not {type(case).__name__}")
    needed = _OF_ALL + (_OF_PICTURES if case.get("images") else ())
    if missing := [key for key in needed if case.get(key) is None]:
        raise ValueError(f"it has no {', '.join(missing)}")


def deviations(case: Case, model: Phi3V, processor: Processor) -> dict[str, float]:
    """The largest deviation of each kind in one case. Raises whatever keeps the case from being computed."""
    check_form(case)
    sample = sample_of(case, processor)
    measured = dict.fromkeys(TOLERANCES, 0.0) | {"ids": _ids_deviation(case, sample, processor)}
    if case["images"]:
        sizes = [list(picture.shape[:2]) for picture in sample.pictures]
        pairs = itertools.zip_longest(sizes, case["image_sizes"])
        measured["image_sizes"] = float(sum(ours != theirs for ours, theirs in pairs))
        measured |= _pixel_deviations(case, sample, processor.vision.image_size)
    return measured | _model_deviations(case, sample, model)


def _ids_deviation(case: Case, sample: Sample, processor: Processor) -> float:
    runs = [[key, len(list(run))] for key, run in itertools.groupby(sample.input_ids.tolist())]
    differing = sum(a != b for a, b in itertools.zip_longest(runs, case["input_ids_run_length"]))
    if case.get("num_img_tokens") is not None:
        counts = [processor.picture_tokens(picture) for picture in sample.pictures]
        differing += counts != np.ravel(case["num_img_tokens"]).tolist()
    return float(differing)


def _pixel_deviations(case: Case, sample: Sample, crop_size: int) -> dict[str, float]:
    # The published code pads every picture with zero crops; ours are compared with zeros where it did.
    padded = torch.zeros(case["pixel_values_shape"])
    for number, picture in enumerate(sample.pictures):
        crops = crops_of(picture, crop_size)
        padded[number, : len(crops)] = crops
    places, values = zip(*case["pixel_samples"], strict=True)
    samples = torch.stack([padded[tuple(place)] for place in places])
    return {
        "pixels": _largest(samples, values),
        "pixel_means": _largest(padded.mean(dim=(2, 3, 4)), case["pixel_mean_per_crop"]),
    }


def _largest(ours: Tensor, theirs: Any) -> float:
    """The largest absolute difference; not a number where one of them is not. Raises for another shape."""
    expected = torch.tensor(theirs, dtype=torch.float64)
    if ours.shape != expected.shape or not ours.numel():
        raise ValueError(f"the case has numbers of shape {list(expected.shape)} for {list(ours.shape)}")
    return float((ours.double() - expected).abs().max())


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
    logits = [
        _largest(at[:, :16], case["logits_first_16"]),
        _largest(at.logsumexp(-1), case["logits_logsumexp"]),
        # Two logits may be equal but for rounding, so the published best one has to be as good as ours.
        _largest(
            at.gather(1, torch.tensor(case["logits_argmax"])[:, None])[:, 0], at.max(-1).values.tolist()
        ),
    ]
    if "all_logsumexp_mean" in case:
        logits.append(_largest(sums.mean(), case["all_logsumexp_mean"]))
    return {
        "logits": float(torch.tensor(logits).max()),
        "loss": _largest(loss.detach(), case["loss"]),
        "grad_norms": _norm_deviation(norms, case["grad_norm"]),
    }


def _norm_deviation(ours: dict[str, float], published: dict[str, float]) -> float:
    """Largest relative deviation; infinite where one side trains what the other does not."""
    largest = max(published.values())
    found = [0.0]
    for name in ours.keys() | published.keys():
        norm, other = ours.get(name, 0.0), published.get(name, 0.0)
        against = max(other, KEY_BIAS_FLOOR * largest) if name.endswith("k_proj.bias") else other
        if norm != other:
            found.append(abs(norm - other) / against if against else math.inf)
    return float(torch.tensor(found).max())


def check_folder(folder: Path, model: Phi3V, processor: Processor, say: Callable[[str], None]) -> bool:
    """Check every case of a folder; whether there was one and all are within the tolerances."""
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        say(f"{folder}: no case (*.json) here")
    passed = bool(paths)
    for path in paths:
        name = str(path.relative_to(folder).with_suffix(""))
        try:
            case = json.loads(path.read_text(encoding="utf-8"))
            measured = deviations(case, model, processor)
        except Exception as error:  # noqa: BLE001 - the other cases are to be run whatever is wrong with this one
            say(f"FAIL {name}: could not run: {type(error).__name__}: {error}")
            passed = False
            continue
        beyond = [kind for kind, value in measured.items() if not value <= TOLERANCES[kind]]
        line = ", ".join(f"{kind} {value:.1e}" if value else f"{kind} 0" for kind, value in measured.items())
        say(
            f"{'FAIL' if beyond else 'ok  '} {name}: {line}"
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

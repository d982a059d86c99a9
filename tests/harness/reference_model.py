"""Phi-3.5-vision put together a second time, from the layers of transformers and the published steps.

One sample at a time, eager, crops padded with zeros as published. It shares with ours only the rule that
weights are made by, so it can make golden cases that the published code was never asked for.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

from golden.check import picture_by_rule, weight_by_rule
from trainerbench.published_pictures import pixel_values, resized_picture

SIDE = 336
VISION = "model.vision_embed_tokens."
CLIP = VISION + "img_processor.vision_model."


class ReferenceModel(nn.Module):
    """The reduced model of the golden vectors."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        published = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        scaling = published["rope_scaling"]
        original, longest = (
            published["original_max_position_embeddings"],
            published["max_position_embeddings"],
        )
        self.text = Phi3ForCausalLM(
            Phi3Config(
                vocab_size=published["vocab_size"],
                hidden_size=192,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                rms_norm_eps=published["rms_norm_eps"],
                max_position_embeddings=longest,
                original_max_position_embeddings=original,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": published["rope_theta"],
                    "short_factor": scaling["short_factor"],
                    "long_factor": scaling["long_factor"],
                    "original_max_position_embeddings": original,
                    "factor": longest / original,
                },
                attn_implementation="eager",
            )
        )
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=256,
                num_hidden_layers=3,
                num_attention_heads=16,
                image_size=SIDE,
                patch_size=14,
                hidden_act="quick_gelu",
                attn_implementation="eager",
            )
        )
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, 4096))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, 4096))
        self.img_projection = nn.Sequential(nn.Linear(4096, 192), nn.GELU(), nn.Linear(192, 192))
        with torch.no_grad():
            for name, parameter in self.published_parameters().items():
                parameter.copy_(weight_by_rule(name, parameter.shape))

    def published_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by their published names."""
        own = {"glb_GN": self.glb_GN, "sub_GN": self.sub_GN}
        own |= {f"img_projection.{name}": x for name, x in self.img_projection.named_parameters()}
        clip = {name.removeprefix("vision_model."): x for name, x in self.clip.named_parameters()}
        return {
            **dict(self.text.named_parameters()),
            **{VISION + name: x for name, x in own.items()},
            **{CLIP + name: x for name, x in clip.items()},
        }

    def forward(self, ids: Tensor, pictures: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Ids (T,), pixel values (1 + num_crops, 3, 336, 336) of each picture, padded (H, W) -> logits."""
        embedded = self.text.get_input_embeddings()(ids.clamp(min=0))
        if pictures:
            rows = [self.picture_rows(*pair) for pair in zip(pictures, sizes, strict=True)]
            embedded = embedded.clone()
            embedded[ids < 0] = self.img_projection(torch.cat(rows))
        logits: Tensor = self.text(inputs_embeds=embedded[None], use_cache=False).logits[0]
        return logits

    def picture_rows(self, crops: Tensor, size: tuple[int, int]) -> Tensor:
        """The crops laid on one canvas of patches, four patches merged into one, each row ended."""
        patches = self.clip(crops, output_hidden_states=True).hidden_states[-2][:, 1:].view(-1, 24, 24, 1024)
        height, width = size[0] // SIDE, size[1] // SIDE
        lines = [
            torch.cat([patches[1 + row * width + column] for column in range(width)], dim=1)
            for row in range(height)
        ]
        return torch.cat([self.merged(torch.cat(lines)), self.glb_GN.view(1, 4096), self.merged(patches[0])])

    def merged(self, canvas: Tensor) -> Tensor:
        """Patches (2h, 2w, 1024) -> (h * (w + 1), 4096)."""
        four = [canvas[dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)]
        merged = torch.cat(four, dim=-1)
        ends = self.sub_GN.view(1, 1, 4096).expand(len(merged), 1, 4096)
        return torch.cat([merged, ends], dim=1).flatten(0, 1)


def make_case(
    model: ReferenceModel,
    tokenizer: Tokenizer,
    *,
    prompt: str,
    answer: str,
    num_crops: int,
    images: list[list[int]],
) -> dict[str, Any]:
    """A case in the form of the golden vectors."""
    padded = [resized_picture(_picture(spec), num_crops=num_crops) for spec in images]
    sizes = [(picture.height, picture.width) for picture in padded]
    pixels = [pixel_values(picture, num_crops=num_crops) for picture in padded]
    counts = [(h // SIDE * (w // SIDE) + 1) * 144 + 1 + (h // SIDE + 1) * 12 for h, w in sizes]
    ids = []
    for number, part in enumerate(re.split(r"<\|image_(\d+)\|>", prompt)):
        if number % 2:
            ids += [-int(part)] * counts[int(part) - 1]
        else:
            ids += tokenizer.encode(part).ids
    ending = tokenizer.encode(answer, add_special_tokens=False).ids
    ids += ending
    logits = model(torch.tensor(ids), pixels, sizes)
    loss = nn.functional.cross_entropy(logits[-len(ending) - 1 : -1], torch.tensor(ending))
    model.zero_grad(set_to_none=True)
    loss.backward()
    logits = logits.detach()
    positions = [0, len(ids) // 2, *range(len(ids) - len(ending) - 1, len(ids))]
    grads = {name: x.grad for name, x in model.published_parameters().items() if x.grad is not None}
    case: dict[str, Any] = {
        "num_crops": num_crops,
        "images": images,
        "prompt": prompt,
        "answer": answer,
        "answer_tokens": len(ending),
        "input_ids_run_length": _runs(ids),
        "loss": float(loss.detach()),
        "logit_positions": positions,
        "logits_first_16": logits[positions, :16].tolist(),
        "logits_argmax": logits[positions].argmax(-1).tolist(),
        "logits_logsumexp": logits[positions].logsumexp(-1).tolist(),
        "grad_norm": {name: float(grad.norm()) for name, grad in grads.items()},
    }
    if images:
        stacked = torch.stack(pixels)
        generator = torch.Generator().manual_seed(0)
        places = [
            [int(torch.randint(0, n, (), generator=generator)) for n in stacked.shape] for _ in range(64)
        ]
        case |= {
            "image_sizes": sizes,
            "num_img_tokens": counts,
            "pixel_values_shape": list(stacked.shape),
            "pixel_samples": [[place, float(stacked[tuple(place)])] for place in places],
            "pixel_mean_per_crop": stacked.mean(dim=(2, 3, 4)).tolist(),
        }
    return case


def _picture(spec: list[int]) -> Image.Image:
    seed, width, height = spec
    return picture_by_rule(seed, width, height)


def _runs(ids: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for token in ids:
        if runs and runs[-1][0] == token:
            runs[-1][1] += 1
        else:
            runs.append([token, 1])
    return runs

"""The sizes of a Phi-3.5-vision model, as `config.json` beside its weights has them. No torch needed.

The published file names its picture tower (CLIP ViT-L/14-336) without its sizes; other sizes are written as
extra keys of `img_processor`, which the published readers ignore.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from phitune_trainer.errors import raise_if_out_of_reach


class ModelFilesError(Exception):
    """A model folder cannot be used. The text says which file, what is wrong, and what was expected."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of the CLIP tower. The defaults are CLIP ViT-L/14-336, which the published model uses."""

    image_size: int = 336
    """Height and width of a crop, in pixels; an even number of patches."""
    patch_size: int = 14
    """Height and width of a patch, in pixels."""
    hidden_size: int = 1024
    num_layers: int = 24
    """Layers in the checkpoint; the last one is kept but never run."""
    num_heads: int = 16
    intermediate_size: int = 4096

    @property
    def side(self) -> int:
        """Patches along one edge of a crop."""
        return self.image_size // self.patch_size

    @property
    def num_positions(self) -> int:
        """Tokens of one crop inside CLIP: its patches and the class token."""
        return self.side**2 + 1

    @property
    def merged_size(self) -> int:
        """Width of a token after 2 x 2 patches are merged into one."""
        return 4 * self.hidden_size

    @property
    def merged_side(self) -> int:
        """Tokens along one edge of a crop, after 2 x 2 patches are merged into one."""
        return self.side // 2

    def image_tokens(self, rows: int, columns: int) -> int:
        """Tokens that a picture of rows x columns crops takes, its global view and separators included."""
        side = self.merged_side
        crops = (rows * columns + 1) * side * side
        separators = rows * side + side + 1
        return crops + separators

    def problems(self) -> list[str]:
        """What is wrong with these sizes, each with its key in `config.json`."""
        found = [
            f"img_processor.{name}: must be at least 1, got {value}"
            for name, value in dataclasses.asdict(self).items()
            if value < 1
        ]
        if found:
            return found
        if self.image_size % (2 * self.patch_size):
            found.append(
                f"img_processor.image_size: must be an even number of patches of {self.patch_size} pixels, "
                f"got {self.image_size}"
            )
        if self.hidden_size % self.num_heads:
            found.append(
                f"img_processor.hidden_size: must be a multiple of num_attention_heads ({self.num_heads}), "
                f"got {self.hidden_size}"
            )
        if self.num_layers < 2:
            found.append(f"img_processor.num_hidden_layers: must be at least 2, got {self.num_layers}")
        return found


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the whole model. The defaults are the published ones, but for the rotary factors."""

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_layers: int = 32
    num_heads: int = 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_positions: int = 131072
    """Longest sequence, in tokens."""
    original_max_positions: int = 4096
    """Sequences longer than this many tokens use the long rotary factors."""
    short_factor: tuple[float, ...]
    """Divisors of the rotary frequencies of short sequences, head_dim / 2 of them."""
    long_factor: tuple[float, ...]
    vision: VisionConfig = field(default_factory=VisionConfig)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    def problems(self) -> list[str]:
        """What is wrong with these sizes, each with its key in `config.json`."""
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
        found = [
            f"{name}: must be at least 1, got {getattr(self, name)}"
            for name in sizes
            if getattr(self, name) < 1
        ]
        if found:
            return found + self.vision.problems()
        if self.hidden_size % (2 * self.num_heads):
            found.append(
                f"hidden_size: must be an even multiple of num_attention_heads, {self.num_heads}, "
                f"got {self.hidden_size}"
            )
        if not 1 <= self.original_max_positions <= self.max_positions:
            found.append(
                "original_max_position_embeddings: must be from 1 to max_position_embeddings "
                f"({self.max_positions}), got {self.original_max_positions}"
            )
        for name in ("short_factor", "long_factor"):
            factors = getattr(self, name)
            if len(factors) != self.head_dim // 2 or min(factors, default=0) <= 0:
                found.append(
                    f"rope_scaling.{name}: must be {self.head_dim // 2} positive numbers (half a head), "
                    f"got {len(factors)}"
                )
        return found + self.vision.problems()

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read `config.json` of a model folder.

        Raises ModelFilesError that names the file and every problem in it.
        """
        path = folder / "config.json"
        published = read_json(path)
        problems = _unsupported(published)
        if not problems:
            try:
                config = _from_published(published)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
                raise ModelFilesError(
                    f"{path}: not the configuration of a Phi-3.5-vision model: {what}"
                ) from error
            problems = config.problems()
        if problems:
            raise ModelFilesError(f"{path}: " + "; ".join(problems))
        return config

    def to_published(self, *, dtype: str) -> dict[str, Any]:
        """The content of `config.json` for this model. `dtype` is that of its weights, such as "bfloat16"."""
        vision = self.vision
        return {
            "architectures": ["Phi3VForCausalLM"],
            "model_type": "phi3_v",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_positions,
            "original_max_position_embeddings": self.original_max_positions,
            "rope_scaling": {
                "type": "su",
                "short_factor": list(self.short_factor),
                "long_factor": list(self.long_factor),
            },
            "tie_word_embeddings": False,
            "attention_dropout": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "torch_dtype": dtype,
            "embd_layer": {
                "embedding_cls": "image",
                "hd_transform_order": "sub_glb",
                "projection_cls": "mlp",
                "use_hd_transform": True,
                "with_learnable_separator": True,
            },
            "img_processor": {
                "name": "clip_vision_model",
                "image_dim_out": vision.hidden_size,
                "num_img_tokens": vision.merged_side**2,
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "hidden_size": vision.hidden_size,
                "num_hidden_layers": vision.num_layers,
                "num_attention_heads": vision.num_heads,
                "intermediate_size": vision.intermediate_size,
            },
        }


class RopeFactors(TypedDict):
    """The two lists of rotary factors, by their names in ModelConfig."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]


def tiny_config() -> ModelConfig:
    """Two text layers, two picture layers that run, crops of 84 pixels."""
    hidden_size, num_heads = 128, 4
    return ModelConfig(
        vocab_size=1024,
        hidden_size=hidden_size,
        intermediate_size=256,
        num_layers=2,
        num_heads=num_heads,
        **rope_factors(hidden_size // num_heads),
        vision=VisionConfig(
            image_size=84, patch_size=14, hidden_size=64, num_layers=3, num_heads=4, intermediate_size=128
        ),
    )


def full_config() -> ModelConfig:
    """The published sizes. The rotary factors are of the published kind, not the published numbers."""
    return ModelConfig(**rope_factors(96))


def rope_factors(head_dim: int) -> RopeFactors:
    """Rotary factors that rise from 1: to 2 for short sequences, to 32 for long ones."""
    rise = [number / max(1, head_dim // 2 - 1) for number in range(head_dim // 2)]
    return {
        "short_factor": tuple(round(2.0**x, 4) for x in rise),
        "long_factor": tuple(round(32.0**x, 4) for x in rise),
    }


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder. Raises ModelFilesError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFilesError(f"{path}: not found; a model folder needs this file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise_if_out_of_reach(error, path)
        raise ModelFilesError(
            f"{path}: cannot be read as JSON, which was expected: {error}; copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelFilesError(f"{path}: must hold a JSON object, got {type(content).__name__}")
    return content


def _unsupported(published: dict[str, Any]) -> list[str]:
    """Settings under which the published code computes something other than this implementation does."""
    wanted: list[tuple[str, tuple[Any, ...]]] = [
        ("model_type", ("phi3_v",)),
        ("hidden_act", ("silu",)),
        ("tie_word_embeddings", (False,)),
        ("attention_dropout", (0, None)),
        ("embd_pdrop", (0, None)),
        ("resid_pdrop", (0, None)),
        ("num_key_value_heads", (published.get("num_attention_heads"),)),
        ("rope_scaling.type", ("su", "longrope")),
        ("embd_layer.embedding_cls", ("image",)),
        ("embd_layer.hd_transform_order", ("sub_glb",)),
        ("embd_layer.projection_cls", ("mlp",)),
        ("embd_layer.use_hd_transform", (True,)),
        ("embd_layer.with_learnable_separator", (True,)),
    ]
    found = []
    for key, allowed in wanted:
        group, _, name = key.rpartition(".")
        holder = published.get(group) if group else published
        value = holder.get(name) if isinstance(holder, dict) else None
        if value not in allowed:
            found.append(f"{key}: must be {allowed[0]!r} (Phi-3.5-vision), got {value!r}")
    if not isinstance(published.get("img_processor"), dict):
        found.append(
            f"img_processor: must be an object (Phi-3.5-vision), got {published.get('img_processor')!r}"
        )
    window, longest = published.get("sliding_window"), published.get("max_position_embeddings")
    if isinstance(window, int) and isinstance(longest, int) and window < longest:
        found.append(f"sliding_window: must be at least max_position_embeddings ({longest}), got {window}")
    return found


def _from_published(published: dict[str, Any]) -> ModelConfig:
    tower = published["img_processor"]
    clip = VisionConfig()
    return ModelConfig(
        vocab_size=int(published["vocab_size"]),
        hidden_size=int(published["hidden_size"]),
        intermediate_size=int(published["intermediate_size"]),
        num_layers=int(published["num_hidden_layers"]),
        num_heads=int(published["num_attention_heads"]),
        rms_norm_eps=float(published["rms_norm_eps"]),
        rope_theta=float(published["rope_theta"]),
        max_positions=int(published["max_position_embeddings"]),
        original_max_positions=int(published["original_max_position_embeddings"]),
        short_factor=tuple(float(factor) for factor in published["rope_scaling"]["short_factor"]),
        long_factor=tuple(float(factor) for factor in published["rope_scaling"]["long_factor"]),
        vision=VisionConfig(
            image_size=int(tower.get("image_size", clip.image_size)),
            patch_size=int(tower.get("patch_size", clip.patch_size)),
            hidden_size=int(tower.get("hidden_size", clip.hidden_size)),
            num_layers=int(tower.get("num_hidden_layers", clip.num_layers)),
            num_heads=int(tower.get("num_attention_heads", clip.num_heads)),
            intermediate_size=int(tower.get("intermediate_size", clip.intermediate_size)),
        ),
    )

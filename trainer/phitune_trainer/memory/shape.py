"""Sizes of a model and what follows from them: numbers of parameters, by what is done with them.

`phitune_trainer.model` has the same numbers beside its torch modules; a test holds the two together.
"""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """Sizes of the CLIP tower; the defaults are CLIP ViT-L/14-336."""

    image_size: int = 336
    patch_size: int = 14
    hidden_size: int = 1024
    num_layers: int = 24
    """Layers with weights; the last one is never run."""
    num_heads: int = 16
    intermediate_size: int = 4096

    @property
    def side(self) -> int:
        """Patches along one edge of a crop."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens of one crop inside CLIP, its class token included."""
        return self.side**2 + 1

    @property
    def merged(self) -> int:
        """Width of a picture token before the projector: four patches."""
        return 4 * self.hidden_size

    @property
    def layer_linears(self) -> int:
        """Elements of the matrices of one layer."""
        return 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: matrices, their biases, two norms."""
        return self.layer_linears + 9 * self.hidden_size + self.intermediate_size

    @property
    def embedding_parameters(self) -> int:
        """Parameters before the first layer: class token, patches, positions, the norm after them."""
        return self.hidden_size * (1 + 3 * self.patch_size**2 + self.tokens + 2)

    def image_tokens(self, rows: int, columns: int) -> int:
        """Tokens that a picture of rows x columns crops takes in the text."""
        side = self.side // 2
        return (rows * columns + 1) * side * side + rows * side + side + 1


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of the whole model; the defaults are those of Phi-3.5-vision."""

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_layers: int = 32
    num_heads: int = 32
    vision: VisionShape = field(default_factory=VisionShape)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_linears(self) -> int:
        """Elements of the matrices of one text layer."""
        return 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size

    @property
    def text_parameters(self) -> int:
        """Everything but CLIP, separators and projector."""
        layers = self.num_layers * (self.layer_linears + 2 * self.hidden_size)
        return layers + self.hidden_size + 2 * self.vocab_size * self.hidden_size

    @property
    def vision_parameters(self) -> int:
        """CLIP, the two separators and the projector."""
        tower = self.vision.embedding_parameters + self.vision.num_layers * self.vision.layer_parameters
        return tower + 2 * self.vision.hidden_size + 2 * self.vision.merged + self.projector_parameters

    @property
    def projector_parameters(self) -> int:
        """The two linears between CLIP and the text layers."""
        return self.vision.merged * self.hidden_size + self.hidden_size**2 + 2 * self.hidden_size

    @property
    def unused_parameters(self) -> int:
        """CLIP's last layer and the norm after it: in the checkpoint, never run, never trained."""
        return self.vision.layer_parameters + 2 * self.vision.hidden_size

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.text_parameters + self.vision_parameters

    def trained_parameters(self, *, freeze_vision: bool) -> int:
        """What full fine-tuning trains."""
        if freeze_vision:
            return self.text_parameters
        return self.parameters - self.unused_parameters

    def adapter_parameters(self, rank: int, *, vision: bool) -> int:
        """What LoRA trains: for every matrix it stands beside, rank x (inputs + outputs)."""
        hidden, wide = self.hidden_size, self.intermediate_size
        text = self.num_layers * ((4 + 2 + 1 + 1) * hidden + (2 + 1) * wide) + hidden + self.vocab_size
        if not vision:
            return rank * text
        narrow = self.vision.hidden_size
        layers = self.vision.num_layers - 1  # the last one is never run and gets none
        tower = layers * (4 * 2 * narrow + 2 * (narrow + self.vision.intermediate_size))
        return rank * (text + tower + self.vision.merged + 3 * hidden)


PUBLISHED: Final = ModelShape()
"""Phi-3.5-vision; also what a model of unknown size is taken for."""

TINY: Final = ModelShape(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=256,
    num_layers=2,
    num_heads=4,
    vision=VisionShape(
        image_size=84, patch_size=14, hidden_size=64, num_layers=3, num_heads=4, intermediate_size=128
    ),
)
"""What `model.init: tiny` makes."""

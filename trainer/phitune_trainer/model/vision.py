"""Pictures to text embeddings: CLIP on every crop, the crops laid out as one picture, a projection.

The layout is the published "HD transform" in the order `sub_glb`: the crops' rows, each ended by `sub_GN`;
`glb_GN`; the rows of the global view, each ended by `sub_GN`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phitune_trainer.model.attention import Kernel
from phitune_trainer.model.clip import ClipTower
from phitune_trainer.model.pixels import crops_of, grid_of
from phitune_trainer.model_config import ModelConfig


class VisionEmbedding(nn.Module):
    """All pictures of a batch to the rows that take their places in the text."""

    def __init__(self, config: ModelConfig, kernel: Kernel) -> None:
        super().__init__()
        merged = config.vision.merged_size
        self.crop_size = config.vision.image_size
        self._config = config
        self.img_processor = nn.ModuleDict({"vision_model": ClipTower(config.vision, kernel)})
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, merged))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, merged))
        self.img_projection = nn.Sequential(
            nn.Linear(merged, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )

    @property
    def tower(self) -> ClipTower:
        """The CLIP part."""
        tower = self.img_processor["vision_model"]
        assert isinstance(tower, ClipTower)
        return tower

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of it is trained, so that a picture always gives the same."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.sub_GN.device

    @property
    def dtype(self) -> torch.dtype:
        """Of what it gives."""
        return self.sub_GN.dtype

    @property
    def hidden_size(self) -> int:
        """Numbers of each row that it gives."""
        return self._config.hidden_size

    def num_tokens(self, picture: Tensor) -> int:
        """Rows that it gives for a picture, bytes (H, W, 3)."""
        return self._config.vision.image_tokens(*grid_of(picture, self.crop_size))

    def num_bytes(self, num_crops: int) -> int:
        """Most bytes that a picture of so many crops is embedded to."""
        tokens = self._config.vision.image_tokens(num_crops, 1)
        return tokens * self._config.hidden_size * self.sub_GN.element_size()

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        """At least one picture, each bytes (H, W, 3) -> (image tokens of all pictures in turn, hidden)."""
        if not self.is_frozen:
            return self._embed(pictures)
        # One by one: what comes of a picture is then the same to the bit whatever it comes with.
        with torch.no_grad():
            return torch.cat([self._embed([picture]) for picture in pictures])

    def each(self, pictures: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The rows of each picture, where this part is; the pictures may be elsewhere."""
        if not pictures:
            return ()
        here = [picture.to(self.device) for picture in pictures]
        return torch.split(self(here), [self.num_tokens(picture) for picture in here])

    def _embed(self, pictures: Sequence[Tensor]) -> Tensor:
        crops = torch.cat([crops_of(picture, self.crop_size) for picture in pictures])
        features = merge_patches(self.tower(crops.to(self.sub_GN.dtype)))
        grids = [grid_of(picture, self.crop_size) for picture in pictures]
        per_picture = torch.split(features, [1 + rows * columns for rows, columns in grids])
        laid_out = [self._lay_out(*pair) for pair in zip(per_picture, grids, strict=True)]
        projected: Tensor = self.img_projection(torch.cat(laid_out))
        return projected

    def _lay_out(self, crops: Tensor, grid: tuple[int, int]) -> Tensor:
        """Global view and crops (1 + rows * columns, side, side, merged) -> (image tokens, merged)."""
        whole, parts = crops[0], crops[1:]
        rows, columns = grid
        side, _, merged = whole.shape
        tiled = parts.view(rows, columns, side, side, merged).transpose(1, 2)
        tiled = tiled.reshape(rows * side, columns * side, merged)
        return torch.cat([self._end_rows(tiled), self.glb_GN[0], self._end_rows(whole)])

    def _end_rows(self, tokens: Tensor) -> Tensor:
        """(height, width, merged) -> (height * (width + 1), merged), `sub_GN` at the end of every row."""
        ends = self.sub_GN[0].expand(len(tokens), 1, -1)
        return torch.cat([tokens, ends], dim=1).flatten(0, 1)


def merge_patches(features: Tensor) -> Tensor:
    """Patches (N, P * P, C) -> (N, P/2, P/2, 4 * C): 2 x 2 become one, channels in the order dy, dx, c."""
    half = math.isqrt(features.shape[1]) // 2
    neighbours = features.view(len(features), half, 2, half, 2, -1)  # (N, y, dy, x, dx, C)
    return neighbours.transpose(2, 3).flatten(3)

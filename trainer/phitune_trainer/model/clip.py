"""The CLIP picture tower, as Phi-3.5-vision uses it: the features are the output of the last layer but one.

The last layer and the norm after it are in every checkpoint, so they are here to be loaded and saved, but
they are never run and never trained.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phitune_trainer.model.attention import Kernel
from phitune_trainer.model.embedding import empty_embedding
from phitune_trainer.model_config import VisionConfig

LAYER_NORM_EPS = 1e-5


class Embeddings(nn.Module):
    """Cut a crop into patches, put the class token in front, add learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = empty_embedding(config.num_positions, config.hidden_size)

    def forward(self, crops: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) -> (N, 1 + patches, hidden)."""
        patches = self.patch_embedding(crops).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(crops), 1, -1)
        embedded: Tensor = torch.cat([first, patches], dim=1) + self.position_embedding.weight
        return embedded


class SelfAttention(nn.Module):
    """Every patch attends to every patch of its crop."""

    def __init__(self, config: VisionConfig, kernel: Kernel) -> None:
        super().__init__()
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.num_heads = config.num_heads
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1 + patches, hidden) -> the same shape."""
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out: Tensor = self.out_proj(self.kernel(query, key, value).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two linears with a "quick GELU" between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1 + patches, hidden) -> the same shape."""
        wide = self.fc1(x)
        narrow: Tensor = self.fc2(wide * torch.sigmoid(1.702 * wide))
        return narrow


class EncoderLayer(nn.Module):
    """One layer: attention, then MLP, each after a norm and added to its input."""

    def __init__(self, config: VisionConfig, kernel: Kernel) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.self_attn = SelfAttention(config, kernel)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1 + patches, hidden) -> the same shape."""
        x = x + self.self_attn(self.layer_norm1(x))
        summed: Tensor = x + self.mlp(self.layer_norm2(x))
        return summed


class Encoder(nn.Module):
    """Holds the layers under their published names; the tower runs them."""

    def __init__(self, config: VisionConfig, kernel: Kernel) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config, kernel) for _ in range(config.num_layers))


class ClipTower(nn.Module):
    """Crops to patch features."""

    def __init__(self, config: VisionConfig, kernel: Kernel) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)  # sic: the published name
        self.encoder = Encoder(config, kernel)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.gradient_checkpointing = False
        # Weight decay would shrink what never has a gradient.
        self.encoder.layers[-1].requires_grad_(False)
        self.post_layernorm.requires_grad_(False)

    def forward(self, crops: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalised -> (N, patches, hidden)."""
        x: Tensor = self.pre_layrnorm(self.embeddings(crops))
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self.encoder.layers[:-1]:
            x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
        return x[:, 1:]

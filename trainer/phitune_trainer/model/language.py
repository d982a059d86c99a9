"""The text layers of Phi-3: RMS norm, rotary attention, gated MLP; no biases, no grouped heads.

They run on packed rows: x is (T, hidden), with no batch dimension.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from phitune_trainer.model.attention import Attend
from phitune_trainer.model.rope import rotate
from phitune_trainer.model_config import ModelConfig


class RMSNorm(nn.Module):
    """Scale to unit mean square in float32, then by the weight in the model's own precision, as published.

    The first of the two is one kernel on a GPU, which keeps its input and a number a token. It takes weights
    too, but then rounds once rather than twice: other numbers than the published ones in 16 bits.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(T, size) -> the same shape and dtype."""
        return self.weight * functional.rms_norm(x, self.weight.shape, eps=self.eps)


class SelfAttention(nn.Module):
    """Rotary self-attention; the rows of `qkv_proj` are queries, keys, values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.num_heads = config.num_heads

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, layer: int) -> Tensor:
        """x (T, hidden), rotary tables (T, head_dim) -> (T, hidden)."""
        query, key, value = self.qkv_proj(x).unflatten(-1, (3 * self.num_heads, -1)).chunk(3, dim=1)
        heads = attend(layer, rotate(query, cos, sin), rotate(key, cos, sin), value)
        projected: Tensor = self.o_proj(heads.flatten(1))
        return projected


class GatedMLP(nn.Module):
    """down(silu(gate) * up); the rows of `gate_up_proj` are gate, up."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(T, hidden) -> (T, hidden)."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        down: Tensor = self.down_proj(functional.silu(gate) * up)
        return down


class DecoderLayer(nn.Module):
    """One text layer: attention, then MLP, each after a norm and added to its input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, layer: int) -> Tensor:
        """x (T, hidden), rotary tables (T, head_dim) -> (T, hidden)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend, layer)
        summed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return summed

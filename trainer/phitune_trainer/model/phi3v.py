"""Phi-3.5-vision: pictures and text in, the summed cross entropy of the labelled tokens out.

The modules are nested so that `state_dict()` has exactly the published names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from phitune_trainer.model.attention import Attend
from phitune_trainer.model.embedding import empty_embedding
from phitune_trainer.model.inputs import Batch
from phitune_trainer.model.kernels import attention_named
from phitune_trainer.model.language import DecoderLayer, RMSNorm
from phitune_trainer.model.rope import LongRope
from phitune_trainer.model.vision import VisionEmbedding
from phitune_trainer.model_config import ModelConfig


class Backbone(nn.Module):
    """Everything but the output head."""

    def __init__(self, config: ModelConfig, attention: str) -> None:
        super().__init__()
        self.embed_tokens = empty_embedding(config.vocab_size, config.hidden_size)
        self.vision_embed_tokens = VisionEmbedding(config, attention_named(attention).crops)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False

    def embed(self, batch: Batch) -> Tensor:
        """Text and picture embeddings of the packed row, (T, hidden)."""
        text: Tensor = self.embed_tokens(batch.input_ids.clamp(min=0))
        if not batch.pictures:
            return text + self._unseen_picture() if torch.is_grad_enabled() else text
        pictures = (
            torch.cat([rows for rows in batch.embedded if rows is not None])
            if batch.embedded
            else self.vision_embed_tokens(batch.pictures)
        )
        assert len(pictures) == batch.num_picture_tokens, (
            f"{batch.num_picture_tokens} places for {len(pictures)} picture tokens"
        )
        rows = pictures.to(text.dtype)[batch.picture_rows]
        return text.index_copy(0, batch.picture_positions, rows)

    def run(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Embeddings (T, hidden) through all layers and the last norm."""
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for number, layer in enumerate(self.layers):
            if recompute:
                x = checkpoint(layer, x, cos, sin, attend, number, use_reentrant=False)
            else:
                x = layer(x, cos, sin, attend, number)
        normed: Tensor = self.norm(x)
        return normed

    def _unseen_picture(self) -> Tensor:
        """Zero, but computed from a black picture where the vision part is trained.

        A batch without pictures then gives every vision parameter a gradient of zeros, and in the same order
        as a batch with pictures does: ZeRO-2 adds up gradients over the ranks in the order in which they
        appear.
        """
        if self.vision_embed_tokens.is_frozen:
            return torch.zeros((), device=self.embed_tokens.weight.device)
        size = self.vision_embed_tokens.crop_size
        black = torch.zeros(size, size, 3, dtype=torch.uint8, device=self.embed_tokens.weight.device)
        nothing: Tensor = self.vision_embed_tokens([black])[:0].sum()
        return nothing.to(self.embed_tokens.weight.dtype)


class Phi3V(nn.Module):
    """The whole model. `attention` is a name in `kernels.ATTENTIONS`."""

    def __init__(self, config: ModelConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.model = Backbone(config, attention)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.model_config = config
        self.rope = LongRope(config)
        self.pack = attention_named(attention).row

    def forward(self, batch: Batch) -> Tensor:
        """Sum, not mean, of the cross entropy over the labelled tokens of the batch: a float32 scalar.

        The caller divides by the labelled tokens of the whole step, over all batches and ranks.
        """
        hidden = self.hidden_states(batch)[batch.label_positions]
        logits = self.lm_head(hidden).float()
        return functional.cross_entropy(logits, batch.labels, reduction="sum")

    def logits(self, batch: Batch) -> Tensor:
        """Logits at every position, (T, vocabulary), in float32. For checks: training needs few of them."""
        logits: Tensor = self.lm_head(self.hidden_states(batch))
        return logits.float()

    def hidden_states(self, batch: Batch) -> Tensor:
        """Output of the last norm at every position of the packed row, (T, hidden)."""
        x = self.model.embed(batch)
        cos, sin = self.rope.tables(batch.segments, device=x.device, dtype=x.dtype)
        return self.model.run(x, cos, sin, self.pack(batch.segments, x))

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the activations of each layer in the backward pass instead of keeping them."""
        self.model.gradient_checkpointing = enabled
        self.model.vision_embed_tokens.tower.gradient_checkpointing = enabled

"""Greedy decoding of several samples at once, with a cache of keys and values.

Prompts run packed, without padding; after that each sample adds one token a step to its own row of the cache.
A sample that grows past `original_max_positions` changes its rotary factors at all positions, in every layer:
it is run once more from the start, so that the answer is the one that decoding without a cache gives.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from phitune_trainer.model.answering import answering
from phitune_trainer.model.inputs import Sample, Segment, collate
from phitune_trainer.model.phi3v import Phi3V


def generate(
    model: Phi3V,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    embedded: Sequence[Tensor] = (),
) -> list[list[int]]:
    """The most likely continuation of each sample: its tokens up to the first of `eos_ids`, which is left
    out.

    Labels of the samples are not looked at; none has branches. `embedded`: what the vision part makes of each
    of their pictures, where that is known. The model is in evaluation mode meanwhile.
    """
    assert not any(sample.branches for sample in samples)
    if not samples or max_new_tokens < 1:
        return [[] for _ in samples]
    with answering(model):
        return _Decoding(model, samples, embedded, max_new_tokens).run(max_new_tokens, frozenset(eos_ids))


class _Decoding:
    """The state of one call: what each of the B rows holds so far, and its keys and values in every layer."""

    def __init__(
        self, model: Phi3V, samples: Sequence[Sample], embedded: Sequence[Tensor], max_new_tokens: int
    ) -> None:
        config = model.model_config
        weight = model.lm_head.weight
        batch = replace(collate(samples), embedded=tuple(embedded)).to(weight.device)
        self.model = model
        lengths = [sample.num_tokens for sample in samples]
        self.prompts = torch.split(model.model.embed(batch), lengths)  # each (tokens, hidden)
        self.lengths = torch.tensor(lengths, device=weight.device)  # tokens in the cache
        self.answers: list[list[int]] = [[] for _ in samples]
        capacity = max(lengths) + max_new_tokens
        shape = (config.num_layers, len(samples), config.num_heads, capacity, config.head_dim)
        dtype = self.prompts[0].dtype
        self.keys = torch.zeros(shape, dtype=dtype, device=weight.device)
        self.values = torch.zeros(shape, dtype=dtype, device=weight.device)

    def run(self, max_new_tokens: int, eos_ids: frozenset[int]) -> list[list[int]]:
        open_rows = set(range(len(self.answers)))
        hidden = self._run_whole(sorted(open_rows))
        for _ in range(max_new_tokens):
            tokens = self.model.lm_head(hidden).argmax(dim=-1)
            for row, token in enumerate(tokens.tolist()):
                if token in eos_ids:
                    open_rows.discard(row)
                if row in open_rows:
                    self.answers[row].append(token)
            if not open_rows:
                break
            hidden = self._add(tokens)
            now_long = [row for row in sorted(open_rows) if self._has_just_become_long(row)]
            if now_long:
                hidden[now_long] = self._run_whole(now_long)
        return self.answers

    def _has_just_become_long(self, row: int) -> bool:
        length = len(self.prompts[row]) + len(self.answers[row])
        return self.model.rope.is_long(length) and not self.model.rope.is_long(length - 1)

    def _run_whole(self, rows: Sequence[int]) -> Tensor:
        """Run these rows from their first token, fill their caches; (rows, hidden) at their last tokens."""
        embed = self.model.model.embed_tokens
        wholes = []
        for row in rows:
            answer = torch.tensor(self.answers[row], dtype=torch.int64, device=self.lengths.device)
            wholes.append(torch.cat([self.prompts[row], embed(answer)]))
        lengths = [len(whole) for whole in wholes]
        segments = [Segment(length) for length in lengths]
        x = torch.cat(wholes)
        packed = self.model.pack(segments, x)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            for row, keys, values in zip(
                rows, torch.split(key, lengths), torch.split(value, lengths), strict=True
            ):
                self.keys[layer, row, :, : len(keys)] = keys.transpose(0, 1)
                self.values[layer, row, :, : len(values)] = values.transpose(0, 1)
            return packed(layer, query, key, value)

        cos, sin = self.model.rope.tables(segments, device=x.device, dtype=x.dtype)
        ends = torch.tensor(lengths, device=x.device).cumsum(0) - 1
        return self.model.model.run(x, cos, sin, attend)[ends]

    def _add(self, tokens: Tensor) -> Tensor:
        """Add one token (B,) to every row; (B, hidden) at it."""
        positions = self.lengths
        self.lengths = positions + 1
        rows = torch.arange(len(tokens), device=tokens.device)
        is_seen = torch.arange(self.keys.shape[3], device=tokens.device) < self.lengths[:, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.keys[layer, rows, :, positions] = key
            self.values[layer, rows, :, positions] = value
            out = functional.scaled_dot_product_attention(
                query[:, :, None], self.keys[layer], self.values[layer], attn_mask=is_seen[:, None, None]
            )
            return out[:, :, 0]

        x = self.model.model.embed_tokens(tokens)
        is_long = self.lengths > self.model.model_config.original_max_positions
        cos, sin = self.model.rope.tables_at(positions, is_long, dtype=x.dtype)
        return self.model.model.run(x, cos, sin, attend)

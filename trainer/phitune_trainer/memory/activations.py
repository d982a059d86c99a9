"""What autograd keeps between forward and backward pass, and what a layer needs beside it: bytes.

Each formula follows the order of the operations in `phitune_trainer.model`; h, i are widths of the text
layers (hidden, intermediate), w, m those of CLIP, b the bytes of a number, 4 those of float32. A tensor that
several operations keep counts once, a view keeps the whole tensor that it is a part of.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phitune_trainer.memory.setup import Setup

_EAGER_WORK_BYTES = 6
"""Of each score of `attention: eager`: gradients, less what of the kept probabilities is free by then."""


@dataclass(frozen=True)
class Activations:
    """One moment of a pass, in bytes."""

    text: int
    """Kept of the text layers."""
    vision: int
    """Kept of CLIP and the projector."""
    logits: int
    """The logits of the labelled tokens, in float32, and their gradient."""
    work: int
    """What is being computed at that moment, and freed after it."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.text + self.vision + self.logits + self.work


def peak(setup: Setup) -> Activations:
    """The moment of a forward and backward pass that needs most: the loss, or a layer's backward pass."""
    moments = [_at_the_loss(setup), _in_a_text_layer(setup)]
    if setup.trains_vision:
        moments.append(_in_a_clip_layer(setup))
    return max(moments, key=lambda moment: moment.total)


def _at_the_loss(setup: Setup) -> Activations:
    """Forward pass done: everything that is kept is there."""
    model, b = setup.model, setup.element_bytes
    tokens, labels = _of_pass(setup)["tokens"], _of_pass(setup)["labels"]
    logits = labels * model.vocab_size * (2 * 4 + b)
    # The head's gradient, or those of the last norm: its output's, the normed input's, its weight's unsummed.
    head = model.vocab_size * model.hidden_size * b if setup.method == "full" else 0
    norm = 3 * tokens * model.hidden_size * b
    return Activations(_text_kept(setup) + _norm_kept(setup), _vision_kept(setup), logits, max(head, norm))


def _in_a_text_layer(setup: Setup) -> Activations:
    """Backward pass of the last text layer; where it is recomputed, that layer is there as a whole."""
    again = _text_layer(setup) if setup.recompute else 0
    return Activations(_text_kept(setup) + again, _vision_kept(setup), 0, _text_work(setup))


def _in_a_clip_layer(setup: Setup) -> Activations:
    """Backward pass of the last CLIP layer that runs: the text layers are done."""
    again = _clip_layer(setup) if setup.recompute else 0
    width = setup.model.vision.intermediate_size
    work = 2 * width * setup.element_bytes * _of_pass(setup)["patches"]
    return Activations(0, _vision_kept(setup) + again, 0, work)


def _text_kept(setup: Setup) -> int:
    """Of all text layers."""
    model, tokens = setup.model, _of_pass(setup)["tokens"]
    tables = 2 * tokens * model.head_dim * setup.element_bytes
    if setup.recompute:
        return model.num_layers * tokens * model.hidden_size * setup.element_bytes + tables
    return model.num_layers * _text_layer(setup) + tables


def _text_layer(setup: Setup) -> int:
    """Of one text layer (model/language.py)."""
    model, b = setup.model, setup.element_bytes
    h, i, tokens = model.hidden_size, model.intermediate_size, _of_pass(setup)["tokens"]
    gated = 2 * b * i + b * i  # gate_up_proj's output, silu(gate)
    inputs = sum(_linear_input(setup, width) for width in (h, h, h, i))
    return 2 * _norm_kept(setup) + _attention_kept(setup) + tokens * (gated + inputs)


def _attention_kept(setup: Setup) -> int:
    """Of the attention of one text layer (model/attention.py, model/flash.py)."""
    model, content, samples = setup.model, setup.content, setup.micro_batch
    row = content.tokens * model.hidden_size * setup.element_bytes
    sums = 4 * content.tokens * model.num_heads  # a log-sum a token and head
    if setup.attention == "flash":
        # Queries, and each branch's keys and values, the prefix among them; the output is o_proj's input.
        keys = content.tokens + content.branches * content.picture_tokens
        gathered = 2 * keys * model.hidden_size * setup.element_bytes
        output = 0 if setup.method == "full" else row
        return samples * (row + gathered + output + sums)
    # Rotated queries and keys; qkv_proj's output, which the values are a part of; the output, of which o_proj
    # gets a copy.
    scores = _scores_kept(setup, model.num_heads, content.tokens)
    return samples * (2 * row + 3 * row + row + sums + scores)


def _text_work(setup: Setup) -> int:
    """Beside what is kept, in the MLP of a text layer: the widest tensors, and the gradients around it."""
    model, b, tokens = setup.model, setup.element_bytes, _of_pass(setup)["tokens"]
    h, i = model.hidden_size, model.intermediate_size
    eager = _EAGER_WORK_BYTES * model.num_heads * setup.content.tokens**2 * setup.micro_batch
    scores = eager if setup.attention == "eager" else 0
    if setup.method == "full":
        return max(tokens * (2 * b * i + 5 * b * h // 2), scores)
    # In 16 bits: gate_up_proj's output, the adapter's share of it and their sum, both in float32, less what
    # is kept of the MLP but not there yet. In float32: a gradient of that output.
    wide = 2 * i * (b + 4 + 4) - 10 * i if b == 2 else 2 * i * b
    dequantised = 2 * i * h * b if setup.method == "qlora" else 0
    around = 3 * h + (8 * h if setup.recompute else 0)
    return max(tokens * (wide + around), scores) + dequantised


def _norm_kept(setup: Setup) -> int:
    """Of one RMSNorm: its input and a float32 a token; where its weight is trained, the normed input too."""
    rows = 2 if setup.method == "full" else 1
    return _of_pass(setup)["tokens"] * (rows * setup.model.hidden_size * setup.element_bytes + 4)


def _linear_input(setup: Setup, width: int) -> int:
    """A token's input of a linear, kept for the gradient of its weight or of the adapter beside it.

    PEFT keeps adapters in float32, and converts their input; dropout keeps a mask beside it.
    """
    if setup.method == "full":
        return setup.element_bytes * width
    return (4 + setup.lora_dropout) * width + 4 * setup.lora_rank


def _scores_kept(setup: Setup, heads: int, length: int) -> int:
    """Attention written out keeps the probabilities of a sequence, in float32 and as they are used."""
    if setup.attention != "eager":
        return 0
    return heads * length**2 * (4 + (2 if setup.element_bytes == 2 else 0)) + length**2


def _vision_kept(setup: Setup) -> int:
    """Of CLIP and the projector; nothing where no gradient reaches them."""
    if not setup.trains_vision:
        return 0
    vision, b, amounts = setup.model.vision, setup.element_bytes, _of_pass(setup)
    layers = vision.num_layers - 1
    if setup.recompute:
        kept = layers * amounts["patches"] * vision.hidden_size * b
    else:
        kept = layers * _clip_layer(setup)
    if setup.method == "full":  # the crops, for the patches' gradient, and the input of the norm after them
        kept += amounts["crops"] * 3 * vision.image_size**2 * b + amounts["patches"] * vision.hidden_size * b
    projector = _linear_input(setup, vision.merged_size) + setup.model.hidden_size * b
    return kept + amounts["picture_tokens"] * (projector + _linear_input(setup, setup.model.hidden_size))


def _clip_layer(setup: Setup) -> int:
    """Of one CLIP layer (model/clip.py)."""
    vision, b, patches = setup.model.vision, setup.element_bytes, _of_pass(setup)["patches"]
    w, m = vision.hidden_size, vision.intermediate_size
    norms = 2 * b * w  # their inputs
    attention = 3 * b * w + 4 * vision.num_heads  # queries, keys, values, a log-sum a head
    gelu = 2 * b * m  # fc1's output and its sigmoid
    if setup.method == "full":  # out_proj keeps attention's output itself; q, k and v share one input
        inputs = 3 * b * w + b * m
    else:
        inputs = b * w + sum(_linear_input(setup, width) for width in (w, w, w, w, w, m))
    kept = patches * (norms + attention + gelu + inputs)
    return kept + _scores_kept(setup, vision.num_heads, vision.num_positions) * _of_pass(setup)["crops"]


def _of_pass(setup: Setup) -> Mapping[str, int]:
    """Amounts of one pass: those of a sample, times the samples."""
    content, samples = setup.content, setup.micro_batch
    return {
        "tokens": samples * content.tokens,
        "crops": samples * content.crops,
        "patches": samples * content.crops * setup.model.vision.num_positions,
        "picture_tokens": samples * content.picture_tokens,
        "labels": samples * content.label_tokens,
    }

"""Numbers of parameters of a model, by what is done with them: they follow from its sizes alone.

A test holds them against the torch modules.
"""

from phitune_trainer.model_config import ModelConfig, VisionConfig


def parameters(model: ModelConfig) -> int:
    """All of them."""
    return _text(model) + _vision(model)


def trained_parameters(model: ModelConfig, *, freeze_vision: bool) -> int:
    """What full fine-tuning trains."""
    if freeze_vision:
        return _text(model)
    return parameters(model) - _unused(model.vision)


def adapter_parameters(model: ModelConfig, rank: int, *, vision: bool) -> int:
    """What LoRA trains: for every matrix it stands beside, rank x (inputs + outputs)."""
    hidden, wide = model.hidden_size, model.intermediate_size
    text = model.num_layers * ((4 + 2 + 1 + 1) * hidden + (2 + 1) * wide) + hidden + model.vocab_size
    if not vision:
        return rank * text
    narrow = model.vision.hidden_size
    layers = model.vision.num_layers - 1  # the last one is never run and gets none
    tower = layers * (4 * 2 * narrow + 2 * (narrow + model.vision.intermediate_size))
    return rank * (text + tower + model.vision.merged_size + 3 * hidden)


def text_matrices(model: ModelConfig) -> int:
    """Elements of the text layers' matrices, which QLoRA quantises."""
    hidden, wide = model.hidden_size, model.intermediate_size
    return model.num_layers * (4 * hidden**2 + 3 * hidden * wide)


def largest_parameter(model: ModelConfig) -> int:
    """Elements of the embedding, and of the head."""
    return model.vocab_size * model.hidden_size


def _text(model: ModelConfig) -> int:
    """Everything but CLIP, separators and projector."""
    norms = (2 * model.num_layers + 1) * model.hidden_size
    return text_matrices(model) + norms + 2 * largest_parameter(model)


def _vision(model: ModelConfig) -> int:
    """CLIP, the two separators and the projector."""
    vision = model.vision
    # Class token, patches, positions, the norm after them.
    embedding = vision.hidden_size * (1 + 3 * vision.patch_size**2 + vision.num_positions + 2)
    tower = embedding + vision.num_layers * _clip_layer(vision) + 2 * vision.hidden_size
    projector = vision.merged_size * model.hidden_size + model.hidden_size**2 + 2 * model.hidden_size
    return tower + 2 * vision.merged_size + projector


def _clip_layer(vision: VisionConfig) -> int:
    """Matrices, their biases, two norms."""
    matrices = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    return matrices + 9 * vision.hidden_size + vision.intermediate_size


def _unused(vision: VisionConfig) -> int:
    """CLIP's last layer and the norm after it: in the checkpoint, never run, never trained."""
    return _clip_layer(vision) + 2 * vision.hidden_size

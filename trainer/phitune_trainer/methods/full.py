"""Full fine-tuning, with or without the vision part."""

from phitune_trainer.model import Phi3V


def train_all(model: Phi3V, *, freeze_vision: bool) -> str:
    """Choose the parameters to train and say in words which are left as they are.

    Freezing vision leaves CLIP, the separators and the projector. The text embedding belongs to the language
    model and stays trained. What the model never runs (CLIP's last layer) it keeps out of training itself.
    """
    if not freeze_vision:
        return "all weights but CLIP's last layer and its norm, which the model never runs"
    model.model.vision_embed_tokens.requires_grad_(False)
    return "the language model with its text embedding; CLIP, separators and projector are left as they are"

"""Phi-3.5-vision in plain PyTorch: start reading at `phi3v.py`."""

from phitune_trainer.model.answering import answering
from phitune_trainer.model.generate import generate
from phitune_trainer.model.inputs import Batch, Branch, Sample, collate
from phitune_trainer.model.likelihood import choice_log_probabilities
from phitune_trainer.model.load import load_model
from phitune_trainer.model.phi3v import Phi3V
from phitune_trainer.model.save import save_model

__all__ = [
    "Batch",
    "Branch",
    "Phi3V",
    "Sample",
    "answering",
    "choice_log_probabilities",
    "collate",
    "generate",
    "load_model",
    "save_model",
]

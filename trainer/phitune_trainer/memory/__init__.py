"""How much memory of a GPU a training run takes, and what is chosen so that it fits: no torch, no GPU needed.

`estimate` describes this implementation, tensor by tensor: what the engines hold, and what autograd keeps of
each layer. A benchmark holds it against torch's own memory tracker on the full-size model; where a layer
keeps something else than it did, that benchmark says so.
"""

from phitune_trainer.memory.choice import FEWER_CROPS, Choice, Remedy, choose, remedies
from phitune_trainer.memory.estimate import Estimate, estimate
from phitune_trainer.memory.gpus import GPUS, Gpu, find_gpu, gib
from phitune_trainer.memory.setup import Content, Setup, content_of, setup_of
from phitune_trainer.memory.shape import PUBLISHED, TINY, ModelShape, VisionShape

__all__ = [
    "FEWER_CROPS",
    "GPUS",
    "PUBLISHED",
    "TINY",
    "Choice",
    "Content",
    "Estimate",
    "Gpu",
    "ModelShape",
    "Remedy",
    "Setup",
    "VisionShape",
    "choose",
    "content_of",
    "estimate",
    "find_gpu",
    "gib",
    "remedies",
    "setup_of",
]

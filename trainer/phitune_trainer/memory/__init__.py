"""How much memory of a GPU a training run takes, and what is chosen so that it fits: no torch, no GPU needed.

`estimate` describes this implementation, tensor by tensor: what the engines hold, and what autograd keeps of
each layer. A benchmark holds it against torch's own memory tracker on the full-size model; where a layer
keeps something else than it did, that benchmark says so.
"""

from phitune_trainer.memory.choice import FEWER_CROPS, Choice, Remedy, choose, remedies
from phitune_trainer.memory.counts import parameters
from phitune_trainer.memory.estimate import Estimate, estimate, host_bytes, trained_parameters
from phitune_trainer.memory.gpus import BF16_FROM, GIB, GPUS, Gpu, find_gpu, gib, gpus_named
from phitune_trainer.memory.setup import Content, Setup, content_of, setup_of

__all__ = [
    "BF16_FROM",
    "FEWER_CROPS",
    "GIB",
    "GPUS",
    "Choice",
    "Content",
    "Estimate",
    "Gpu",
    "Remedy",
    "Setup",
    "choose",
    "content_of",
    "estimate",
    "find_gpu",
    "gib",
    "gpus_named",
    "host_bytes",
    "parameters",
    "remedies",
    "setup_of",
    "trained_parameters",
]

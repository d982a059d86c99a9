"""Samples for training and evaluation: start reading at `jsonl.py`."""

from phitune_trainer.data.digits import generate_digits
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.jsonl import JsonlDataset
from phitune_trainer.data.processor import Processor
from phitune_trainer.model.inputs import Batch, Sample, collate

__all__ = ["Batch", "DataError", "JsonlDataset", "Processor", "Sample", "collate", "generate_digits"]

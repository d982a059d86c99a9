"""The recipe's tasks: start reading at `table.py`."""

from phitune_trainer.data.tasks.choice import held_out_split, hub_sources, training_split
from phitune_trainer.data.tasks.spec import HubSource, Split, TaskSpec
from phitune_trainer.data.tasks.table import TASKS

__all__ = ["TASKS", "HubSource", "Split", "TaskSpec", "held_out_split", "hub_sources", "training_split"]

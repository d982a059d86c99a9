"""What the published recipe states: its table of suggested hyperparameters, and its flags' defaults."""

from typing import Final, NamedTuple

from phitune_trainer.config import Method, Task

FLAG_LEARNING_RATE: Final = 4e-5
FLAG_EPOCHS: Final = 1
FLAG_BATCH: Final = 16
FLAG_LORA_RANK: Final = 64
FLAG_WARMUP: Final = 50
STILL_CROPS: Final = 16
VIDEO_CROPS: Final = 4


class Row(NamedTuple):
    """A row of the recipe's table of suggested hyperparameters."""

    learning_rate: float
    epochs: int
    batch: int = 64
    lora: tuple[int, float] | None = None
    """Rank and alpha."""


RECIPE: Final[dict[tuple[Task, Method, bool], Row]] = {
    # task, method, freezeVision
    ("nlvr2", "full", False): Row(1e-5, 3),
    ("nlvr2", "full", True): Row(2e-5, 2),
    ("docvqa", "full", False): Row(5e-6, 2),
    ("docvqa", "full", True): Row(1e-4, 2),
    ("docvqa", "lora", False): Row(2e-4, 2, lora=(32, 16)),
    ("docvqa", "qlora", False): Row(2e-4, 2, lora=(32, 16)),
    ("hatefulMemes", "full", False): Row(5e-5, 2),
    ("hatefulMemes", "full", True): Row(1e-4, 3),
    ("hatefulMemes", "lora", False): Row(2e-4, 2, lora=(128, 256)),
    ("hatefulMemes", "qlora", False): Row(2e-4, 2, lora=(128, 256)),
}
FLAGS: Final = Row(FLAG_LEARNING_RATE, FLAG_EPOCHS, FLAG_BATCH)

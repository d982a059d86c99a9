"""The methods: which parameters a run trains, and what it leaves behind.

`prepare_method` decides once, before the engine is built; the loop does not know which method it runs.
"""

from dataclasses import dataclass
from typing import Any

from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import UserError
from phitune_trainer.methods.full import train_all
from phitune_trainer.model import Phi3V


@dataclass(frozen=True)
class Method:
    """A model made ready to train; which parameters are trained is in their `requires_grad`."""

    model: Phi3V
    peft_model: Any | None
    """PEFT's view of the same model; None when there are no adapters."""
    summary: str
    """What is trained and what is not, in words."""


def prepare_method(model: Phi3V, config: TrainConfig) -> Method:
    """Choose the trained parameters of `model`, in place. UserError for what cannot be trained this way.

    With method qlora the weights are quantised when the model is next moved to a device.
    """
    if config.method == "full":
        return Method(model, None, train_all(model, freeze_vision=config.freeze_vision))
    if config.lora is None:
        raise UserError(f"lora: needed with method {config.method}")
    from phitune_trainer.methods.lora import add_adapters  # here, because PEFT takes seconds to import

    beside = ""
    if config.method == "qlora":
        from phitune_trainer.methods.qlora import quantize  # here, because bitsandbytes does, too

        beside = f"{len(quantize(model))} linears of the language model in 4 bits (NF4); "
    peft_model, summary = add_adapters(model, config.lora, seed=config.training.seed)
    return Method(model, peft_model, beside + summary)

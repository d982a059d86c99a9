"""What `phitune evaluate` and `phitune predict` share: options, the device, loading a model onto it."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phitune_cli.saying import note
from phitune_cli.this_machine import detect_machine
from phitune_trainer.memory import BF16_FROM

if TYPE_CHECKING:
    import torch

    from phitune_trainer.load_trained import Located
    from phitune_trainer.model import Phi3V


@dataclass(frozen=True)
class Device:
    """Where and how exactly to compute."""

    name: str
    precision: str
    about: str
    """Both in words."""

    def load(self, located: "Located") -> "Phi3V":
        """Load a model onto the device, ready to answer. Raises UserError or ModelFilesError."""
        from phitune_trainer.load_trained import load_trained
        from phitune_trainer.model.read import PRECISIONS

        note(f"loading {located.about}, on {self.about}")
        model = load_trained(located, dtype=PRECISIONS[self.precision], attention="sdpa")
        return model.to(self.torch).eval()

    @property
    def torch(self) -> "torch.device":
        """The device as torch knows it."""
        import torch

        return torch.device(self.name)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `choose_device` reads."""
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp16", "fp32"),
        default="auto",
        help="of the weights (default: bf16 on GPUs that have it, else fp16; fp32 on the CPU)",
    )


def choose_device(precision: str) -> Device:
    """The first GPU if there is one, else the CPU, in the precision asked for or that suits it."""
    machine = detect_machine()
    if machine.gpu is None:
        chosen = "fp32" if precision == "auto" else precision
        return Device("cpu", chosen, f"the CPU, {chosen}")
    has_bf16 = (machine.gpu.compute_capability or (0, 0)) >= BF16_FROM
    chosen = ("bf16" if has_bf16 else "fp16") if precision == "auto" else precision
    return Device("cuda:0", chosen, f"{machine.gpu.name}, {chosen}")

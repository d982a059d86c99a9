"""How much more memory loading takes than it must."""

from pathlib import Path

from benchrows.row import Bar, Row, Workplace
from trainerbench.alone import alone
from trainerbench.full_model import full_model
from trainerbench.memory import GIB, peak_resident_bytes


def measure(work: Workplace) -> float:
    """Peak of a process that does nothing but load the model, less its parameters and the largest shard."""
    model = full_model(work.say)
    peak, parameters = alone(load, model)
    largest = max(path.stat().st_size for path in model.glob("*.safetensors"))
    parts = {"peak": peak, "parameters": parameters, "largest shard": largest}
    work.say(", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in parts.items()))
    return (peak - parameters - largest) / GIB


def load(folder: Path) -> tuple[int, int]:
    """Load the model as training does: the peak of resident bytes, and the bytes of its parameters."""
    import torch

    from phitune_trainer.model.load import load_model

    model = load_model(folder, dtype=torch.bfloat16, attention="sdpa")
    return peak_resident_bytes(), sum(parameter.nbytes for parameter in model.parameters())


ROW = Row(
    name="load_extra_gib",
    unit="GiB",
    bar=Bar(sign="<=", limit=1.0),
    summary="peak memory while loading full size - parameters - largest shard",
    measure=measure,
)

"""How much more is computed than training needs: FLOPs by torch's counter / by the model's formula."""

from functools import partial

from benchrows.row import Bar, NotMeasured, Row, Workplace
from trainerbench.alone import alone

RANK = 64


def measure(method: str, work: Workplace) -> float:
    """Forward and backward pass of a few pages, nothing recomputed. NotMeasured for unknown operations."""
    executed, necessary, unknown = alone(count, method)
    if unknown:
        raise NotMeasured(
            f"torch's counter has no formula for {', '.join(unknown)}; where they multiply no matrices, "
            "name them in trainerbench/counted_operations.py"
        )
    work.say(f"{executed / 1e12:.1f} TFLOP executed, {necessary / 1e12:.1f} necessary")
    return executed / necessary


def count(method: str) -> tuple[int, int, list[str]]:
    """FLOPs executed, FLOPs necessary, and the names of operations whose FLOPs are not known."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from phitune_trainer.batch_flops import amounts_in
    from phitune_trainer.flops import Trained, necessary_flops
    from phitune_trainer.memory import Content, Setup
    from phitune_trainer.model import collate
    from phitune_trainer.model_config import full_config
    from trainerbench.counted_operations import counting
    from trainerbench.docvqa import pages
    from trainerbench.fake_model import fake_batch, make_fake, on_no_device

    config = full_config()
    batch = collate(pages(config), original_max_positions=config.original_max_positions)
    amounts = amounts_in(batch, config)
    trained = Trained(
        method="lora" if method == "lora" else "full",
        freeze_vision=method == "frozen",
        lora_rank=RANK if method == "lora" else 0,
        lora_vision=method == "lora",
    )
    setup = Setup(
        model=config,
        method=trained.method,
        freeze_vision=trained.freeze_vision,
        lora_rank=trained.lora_rank,
        lora_vision=trained.lora_vision,
        content=Content(
            tokens=amounts.tokens,
            crops=amounts.crops,
            picture_tokens=amounts.picture_tokens,
            label_tokens=amounts.label_tokens,
        ),
        recompute=False,
    )
    model = on_no_device(setup)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # the rotary frequencies are real
        make_fake(model)
        with counting() as counted:
            model(fake_batch(batch, mode)).backward()
    return counted.flops, necessary_flops(config, trained, amounts), sorted(counted.unknown)


ROWS = tuple(
    Row(
        name=f"flops_ratio_{method}",
        unit="times",
        bar=Bar(sign="<=", limit=1.05),
        summary=f"FLOPs executed / necessary, {words}, full-size layers",
        measure=partial(measure, method),
    )
    for method, words in [("full", "all trained"), ("frozen", "vision frozen"), ("lora", "LoRA")]
)

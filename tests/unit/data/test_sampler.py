"""Which samples a step takes, and how they are shared out."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from phitune_trainer.data.sampler import split, step_indices

SIZES = st.integers(1, 50)


def steps(count: int, *, seed: int = 0, num_samples: int = 10, global_batch: int = 4) -> list[list[int]]:
    return [
        step_indices(seed=seed, step=step, num_samples=num_samples, global_batch=global_batch)
        for step in range(count)
    ]


@given(num_samples=SIZES, global_batch=SIZES, epochs=st.integers(1, 3))
def test_every_epoch_takes_every_sample_once(num_samples: int, global_batch: int, epochs: int) -> None:
    num_steps = -(-num_samples * epochs // global_batch)
    taken = [
        index
        for step in steps(num_steps, num_samples=num_samples, global_batch=global_batch)
        for index in step
    ]
    assert len(taken) == num_steps * global_batch
    for epoch in range(epochs):
        part = taken[epoch * num_samples : (epoch + 1) * num_samples]
        assert sorted(part) == list(range(num_samples))


def test_a_step_depends_on_seed_and_step_alone() -> None:
    forwards = steps(20)
    assert list(reversed([steps(step + 1)[step] for step in reversed(range(20))])) == forwards
    assert steps(20, seed=1) != forwards


def test_epochs_are_in_different_orders() -> None:
    assert len({tuple(step) for step in steps(5, num_samples=10, global_batch=10)}) == 5


def test_the_order_is_pinned() -> None:
    """A run that is resumed by a newer version goes on with the same samples."""
    assert steps(3) == [[3, 2, 1, 8], [6, 0, 7, 4], [5, 9, 7, 4]]


@given(
    indices=st.lists(st.integers(0, 9), max_size=40),
    world=st.integers(1, 9),
    micro_batch=st.integers(1, 9),
)
def test_ranks_share_a_step_without_loss_and_in_equally_many_pieces(
    indices: list[int], world: int, micro_batch: int
) -> None:
    shares = [split(indices, rank=rank, world=world, micro_batch=micro_batch) for rank in range(world)]
    assert Counter(i for share in shares for piece in share for i in piece) == Counter(indices)
    assert len({len(share) for share in shares}) == 1
    assert all(len(piece) <= micro_batch for share in shares for piece in share)
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    if len(indices) % (world * micro_batch) == 0:
        assert all(len(piece) == micro_batch for share in shares for piece in share)

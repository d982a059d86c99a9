"""Which variable-length flash attention runs: flash-attn's where it is installed, else PyTorch's own.

Their kernels run on GPUs alone (`test_attention.py` holds the one that is there against sdpa). Here functions
that do what the two document stand in for them, on the CPU.
"""

import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen as torchs

from phitune_trainer.model import flash
from phitune_trainer.model.attention import PackedAttention, eager
from phitune_trainer.model.inputs import Segment
from phitune_trainer.model.varlen import MissingError, find_varlen

torch.set_num_threads(1)

SEGMENTS = (Segment(5), Segment(4, (3, 0, 2)), Segment(7, (0,)))
PYTORCHS = torchs.varlen_attn
OF_ANOTHER_TORCH = "raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c10')"


def attend(query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor) -> Tensor:
    """Each sequence's queries are the last of its keys."""
    outputs = []
    for (q0, q1), (k0, k1) in zip(pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True):
        mask = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(k1 - k0 - (q1 - q0))
        own = (x.transpose(0, 1) for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        outputs.append(eager(*own, mask=mask).transpose(0, 1))
    return torch.cat(outputs)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    assert (causal, softmax_scale, dropout_p) == (True, None, 0)
    assert max_seqlen_q == cu_seqlens_q.diff().max()
    assert max_seqlen_k == cu_seqlens_k.diff().max()
    return attend(q, k, v, cu_seqlens_q, cu_seqlens_k)


def varlen_attn(*arguments: Tensor, **options: object) -> Tensor:
    taken = inspect.signature(PYTORCHS).bind(*arguments, **options).arguments
    assert taken.pop("window_size") == (-1, 0)
    assert taken.pop("max_q") == taken["cu_seq_q"].diff().max()
    assert taken.pop("max_k") == taken["cu_seq_k"].diff().max()
    return attend(*taken.values())


varlen_attn.__signature__ = inspect.signature(PYTORCHS)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def chosen_anew_without_flash_attn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    find_varlen.cache_clear()
    yield
    find_varlen.cache_clear()


def install(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module of flash-attn's name on the path."""
    (folder / "flash_attn.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    del sys.modules["flash_attn"]


@pytest.mark.parametrize("package", ["flash_attn", "torch"])
def test_a_packed_row_is_handed_over_as_the_package_documents_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "flash_attn":
        install(tmp_path, "flash_attn_varlen_func = None", monkeypatch)
        monkeypatch.setattr("flash_attn.flash_attn_varlen_func", flash_attn_varlen_func)
    elif "window_size" in inspect.signature(PYTORCHS).parameters:
        monkeypatch.setattr(torchs, "varlen_attn", varlen_attn)
    else:
        pytest.skip("this PyTorch's own has no windows")
    monkeypatch.setattr(flash, "why_not", lambda device, dtype: None)
    generator = torch.Generator().manual_seed(0)
    row = list(torch.randn(3, sum(s.length for s in SEGMENTS), 2, 8, generator=generator))
    expected = PackedAttention(SEGMENTS, row[0], kernel=eager)(0, *row)
    torch.testing.assert_close(flash.FlashAttention(SEGMENTS, row[0])(0, *row), expected)


def test_flash_attn_is_preferred_where_both_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "def flash_attn_varlen_func(*row, causal): return ('flash-attn', causal)", monkeypatch)
    found = find_varlen()
    assert found.attend(*[None] * 7) == ("flash-attn", True)  # type: ignore[arg-type]
    assert found.about == "flash-attn"


def test_where_a_flash_attn_of_another_torch_does_not_load_torchs_own_is_used_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, OF_ANOTHER_TORCH, monkeypatch)
    monkeypatch.setattr(torchs, "varlen_attn", lambda *row, window_size: torch.tensor(window_size))
    found = find_varlen()
    assert found.attend(*[None] * 7).tolist() == [-1, 0]  # type: ignore[list-item]
    assert found.about == (
        "PyTorch's own; this flash-attn does not load: flash_attn_2_cuda.so: undefined symbol: _ZN3c10"
    )


def test_torch_whose_own_has_no_windows_is_told_what_else_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchs, "varlen_attn", lambda query, key, value: query)
    with pytest.raises(MissingError, match=r"needs flash-attn, or PyTorch 2\.11 or newer, and this is 2\."):
        find_varlen()
    install(tmp_path, OF_ANOTHER_TORCH, monkeypatch)
    with pytest.raises(MissingError, match=r"another flash-attn \(.*undefined symbol.*\), or PyTorch 2\.11"):
        find_varlen()

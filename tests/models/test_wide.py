"""Matmuls of narrow floats, computed in float32: the same numbers, whatever the processor has."""

import pytest
import torch
from torch.nn.functional import conv2d, linear, scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from bitplan.models import wide, wide_matmuls

DTYPES = (torch.bfloat16, torch.float16)


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) / 8).to(dtype).requires_grad_()


FUNCTIONS = {
    "linear": (linear, [(3, 40, 24), (56, 24), (56,)]),
    "linear, no bias": (linear, [(40, 24), (56, 24)]),
    "bmm": (torch.bmm, [(3, 40, 24), (3, 24, 56)]),
    "baddbmm": (torch.baddbmm, [(3, 40, 56), (3, 40, 24), (3, 24, 56)]),
    "einsum": (lambda a, b: torch.einsum("tei,eio->teo", a, b), [(40, 3, 24), (3, 24, 56)]),
    "conv2d": (conv2d, [(2, 8, 12, 12), (16, 8, 3, 3), (16,)]),
    "attention": (scaled_dot_product_attention, [(1, 2, 40, 16)] * 3),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_and_backward_are_those_of_float32_rounded(name, dtype):
    function, shapes = FUNCTIONS[name]
    inputs = [drawn(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    exact = [value.detach().float().requires_grad_() for value in inputs]
    with wide_matmuls(force=True):
        output = function(*inputs)
        output.float().square().sum().backward()
    expected = function(*exact)
    expected.square().sum().backward()
    assert output.dtype == dtype
    rounding = torch.finfo(dtype).eps
    for found, wanted in [
        (output, expected),
        *((a.grad, b.grad) for a, b in zip(inputs, exact, strict=True)),
    ]:
        assert found.dtype == dtype
        error = (found.float() - wanted).norm() / wanted.norm()
        assert error < 2 * rounding


@pytest.mark.parametrize("shape", [(16, 24, 200), (16, 200, 24)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_large_right_side_is_widened_in_parts(shape, has_bias, monkeypatch):
    rows, inner, columns = shape
    left, right = drawn(rows, inner, dtype=DTYPES[0]), drawn(inner, columns, dtype=DTYPES[0])
    bias = drawn(columns, dtype=DTYPES[0])

    def run() -> torch.Tensor:
        return torch.addmm(bias, left, right, alpha=0.5) if has_bias else left @ right

    with wide_matmuls(force=True), torch.no_grad():
        whole = run()
        monkeypatch.setattr(wide, "AT_ONCE", 1000)
        largest = _largest_float32(run)
        parts = run()
    torch.testing.assert_close(parts, whole, rtol=2e-2, atol=2e-3)
    assert largest < inner * columns


def _largest_float32(run) -> int:
    """Numbers of the largest float32 tensor that any operation makes on the way."""
    sizes = [0]

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.dtype == torch.float32:
                sizes.append(found.numel())
            return found

    with Sizes(), wide_matmuls(force=True):
        run()
    return max(sizes)


def test_few_rows_are_left_as_they_are():
    left, right = drawn(2, 64, dtype=DTYPES[0]), drawn(64, 64, dtype=DTYPES[0])
    with torch.no_grad():
        expected = left @ right
        with wide_matmuls(force=True):
            assert torch.equal(left @ right, expected)


def test_float32_is_untouched_and_blocks_may_nest():
    left, right = drawn(64, 64, dtype=torch.float32), drawn(64, 64, dtype=torch.float32)
    with torch.no_grad(), wide_matmuls(force=True), wide_matmuls(force=True):
        stack = _get_current_dispatch_mode_stack()
        assert len(stack) == 1
        inside = left @ right
    assert torch.equal(inside, left @ right)


def test_the_way_back_keeps_nothing_wide():
    left, right = drawn(64, 64, dtype=DTYPES[0]), drawn(64, 64, dtype=DTYPES[0])
    kept: list[torch.dtype] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.dtype)
        return tensor

    with wide_matmuls(force=True), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        (left @ right).backward(torch.ones(64, 64, dtype=DTYPES[0]))
    assert set(kept) == {DTYPES[0]}


def test_only_what_the_processor_lacks_is_widened(monkeypatch):
    monkeypatch.setattr(wide, "slow_dtypes", lambda: frozenset[torch.dtype]())
    with wide_matmuls():
        assert not _get_current_dispatch_mode_stack()

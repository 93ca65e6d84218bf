"""Matmuls of narrow floats in float32, on processors that have no such arithmetic of their own.

Where a processor multiplies no bfloat16 (x86-64 without AVX-512 BF16 or AMX, most of them), torch
does it in plain loops: on an AVX2 core a forward and backward pass over SmolLM2-135M took 15 times
as long as with both sides of every matmul turned to float32 first, and its result rounded again.
That is what happens here, one matmul at a time, so that no second copy of the model is held. Sums
are taken in float32 either way; the results differ by their order alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

WORTH = 4
"""A matmul of m x k by k x n is widened if it has so many products for each number that is read or
written: with few rows, reading the weight is what takes the time."""

AT_ONCE = 1 << 25
"""Numbers of the right side of a product that are float32 at a time: bounds memory at heads."""

_aten = torch.ops.aten


@contextmanager
def wide_matmuls(*, force: bool = False) -> Iterator[None]:
    """Within the block and this thread, matmuls, convolutions and attention of tensors on the CPU.

    Of those dtypes alone that the processor has no arithmetic for; `force`: of any narrow one.
    """
    dtypes = frozenset(_NARROW) if force else slow_dtypes()
    if not dtypes or any(isinstance(mode, _Wide) for mode in _get_current_dispatch_mode_stack()):
        yield
        return
    with _Wide(dtypes):
        yield


@cache
def slow_dtypes() -> frozenset[torch.dtype]:
    """The narrow floating dtypes that this processor multiplies slowly."""
    return frozenset(dtype for dtype, is_native in _NARROW.items() if not is_native())


def _has_bfloat16() -> bool:
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        # oneDNN takes any AVX-512 for support, and emulates what is missing.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _has_float16() -> bool:
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


_NARROW: Mapping[torch.dtype, Callable[[], bool]] = {
    torch.bfloat16: _has_bfloat16,
    torch.float16: _has_float16,
}


class _Wide(TorchDispatchMode):
    """Under autograd, so that the way back is widened as well, and nothing wide is kept for it."""

    def __init__(self, dtypes: frozenset[torch.dtype]) -> None:
        super().__init__()
        self.dtypes = dtypes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        widened = _WIDENED.get(func)
        first = next((arg for arg in args if isinstance(arg, Tensor)), None)
        if widened is None or first is None or not self._is_slow(first):
            return func(*args, **given)
        return widened(func, first.dtype, args, given)

    def _is_slow(self, tensor: Tensor) -> bool:
        return tensor.dtype in self.dtypes and tensor.device.type == "cpu"


def _product(func: Any, dtype: torch.dtype, args: tuple[Any, ...], given: dict[str, Any]) -> Tensor:
    """mm and bmm, and those that add to what comes first."""
    left, right = args[-2:]
    rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    numbers = rows * inner + inner * columns + rows * columns
    if rows * inner * columns < WORTH * numbers:
        return func(*args, **given)
    added = [arg.float() for arg in args[:-2]]
    if right.dim() == 3 or right.numel() <= AT_ONCE:
        return func(*added, left.float(), right.float(), **given).to(dtype)
    left = left.float()
    if columns >= inner:
        step = max(1, AT_ONCE // inner)
        parts = [(left @ part.float()).to(dtype) for part in right.split(step, dim=1)]
        product = torch.cat(parts, dim=1)
    else:
        step = max(1, AT_ONCE // columns)
        total = torch.zeros(rows, columns)
        for each, part in zip(left.split(step, dim=1), right.split(step), strict=True):
            total.addmm_(each, part.float())
        product = total.to(dtype)
    if not added:
        return product
    alpha, beta = given.get("alpha", 1), given.get("beta", 1)
    return (product.float() * alpha + added[0] * beta).to(dtype)


def _all(func: Any, dtype: torch.dtype, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Whatever is given wide; all that comes out narrow."""
    found = _widely(func, dtype, args, given)
    return _narrowed(found, dtype) if isinstance(found, Tensor) else _each(found, dtype, len(found))


def _first(func: Any, dtype: torch.dtype, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Attention: a narrow result, and the sums for the way back, which are wide in any case."""
    return _each(_widely(func, dtype, args, given), dtype, 1)


def _widely(func: Any, dtype: torch.dtype, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    def wide(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == dtype else value

    return func(*map(wide, args), **{name: wide(value) for name, value in given.items()})


def _each(found: Sequence[Any], dtype: torch.dtype, count: int) -> tuple[Any, ...]:
    return tuple(_narrowed(one, dtype) if index < count else one for index, one in enumerate(found))


def _narrowed(found: Any, dtype: torch.dtype) -> Any:
    return found.to(dtype) if isinstance(found, Tensor) and found.is_floating_point() else found


_WIDENED: Mapping[Any, Callable[..., Any]] = {
    _aten.mm.default: _product,
    _aten.bmm.default: _product,
    _aten.addmm.default: _product,
    _aten.baddbmm.default: _product,
    _aten.convolution.default: _all,
    _aten.convolution_backward.default: _all,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _first,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _all,
}

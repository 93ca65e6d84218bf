"""What tells one model from another, and a sound model from a broken one. Nothing is copied."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.footprint import FLOAT_OF_DTYPE
from bitplan.memory import release
from bitplan.models.layers import weight_of
from bitplan.schema import Layer

CHUNK = 1 << 22
"""Weights looked at in one go."""


def model_digest(model: nn.Module, layers: Iterable[Layer]) -> str:
    """sha256 over the layers' names, shapes and weights as bfloat16.

    The same model loaded as float32 and as bfloat16 has the same digest.
    """
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(f"{layer.name} {list(layer.shape)}\n".encode())
        weight = weight_of(model, layer)
        for chunk in _chunks(weight):
            bits = chunk.to(torch.bfloat16).contiguous().view(torch.uint8)
            digest.update(bits.cpu().numpy().data)
        release([weight])
    return digest.hexdigest()


def check_dtypes(model: nn.Module) -> None:
    """Raise `ModelError` for parameters of a dtype that bitplan does not work on."""
    for parameter in model.parameters():
        dtype = str(parameter.dtype).removeprefix("torch.")
        if parameter.is_floating_point() and parameter.itemsize > 1 and dtype not in FLOAT_OF_DTYPE:
            raise ModelError(
                f"{type(model).__name__} has weights of {dtype}; bitplan works on "
                f"{', '.join(FLOAT_OF_DTYPE)}. Convert it first: model.to(torch.bfloat16)."
            )


def check_finite(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Raise `ModelError` for the first weight or other parameter that holds NaN or infinity."""
    checked = set()
    for layer in layers:
        weight = weight_of(model, layer)
        checked.add(weight.data_ptr())
        _check(layer.name, weight)
        release([weight])
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.data_ptr() not in checked:
            _check(name, parameter.detach())


def _check(name: str, weight: Tensor) -> None:
    broken = sum(map(_count_non_finite, _chunks(weight)))
    if broken:
        raise ModelError(
            f"{name} holds {broken:,} of {weight.numel():,} values that are NaN or infinite; "
            "all must be finite. The checkpoint is damaged, or too wide for its dtype: fetch it "
            "again, or load it in another dtype."
        )


def _count_non_finite(chunk: Tensor) -> int:
    # The extremes are NaN where any value is, and far quicker to find than to count.
    if chunk.numel() == 0 or all(torch.isfinite(extreme) for extreme in torch.aminmax(chunk)):
        return 0
    return int((~torch.isfinite(chunk)).sum())


def _chunks(weight: Tensor) -> Iterator[Tensor]:
    """Pieces of about `CHUNK` values, row by row. Slices, so that a transposed view stays one."""
    if weight.ndim == 0:
        yield weight
        return
    if weight.ndim == 3:
        for matrix in weight:
            yield from _chunks(matrix)
        return
    values_a_row = max(weight[0].numel(), 1) if len(weight) else 1
    yield from weight.split(max(CHUNK // values_a_row, 1))

"""Packed weight times many vectors: rows are decoded some at a time, and torch multiplies them."""

from array import array
from collections.abc import Iterator
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.native import dot_rows, layout, rows, trit_rows
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.trits import TERNARY

TILE_BYTES = 1 << 21
"""Of numbers that are decoded at once for many vectors: what stays in a processor's cache."""


def multiply_many(inputs: Tensor, job: array, height: int) -> Tensor:
    """Decode as many rows as stay in the cache, and let torch multiply them."""
    dtype = dtype_of_many(inputs)
    vectors = inputs.to(dtype)
    output = torch.empty(len(inputs), height, dtype=dtype)
    for some, tile in tiles(job, inputs.shape[-1], height, dtype):
        torch.mm(vectors, tile, out=output[:, some])
    return output


def tiles(
    job: array, columns: int, height: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Float[Tensor, "columns count"]]]:
    """Rows, decoded and transposed; a tile lives until the next one."""
    quads, half = job[fields.QUADS], dtype == torch.bfloat16
    own = dtype if quads else torch.float32
    each = layout.LANES * columns * own.itemsize
    step = layout.LANES * max(1, TILE_BYTES // each)
    if quads:
        function = dot_rows.transposed(job[fields.BITS], int(half))
    elif job[fields.BITS] == TERNARY:
        function = trit_rows.transposed()
    else:
        function = rows.transposed()
    memory = torch.empty(columns * min(step, height), dtype=own)
    for start in range(0, height, step):
        count = min(step, height - start)
        tile = memory[: columns * count].view(columns, count)
        job[fields.FIRST], job[fields.COUNT], job[fields.COUNTER] = start, count, 0
        job[fields.OUTPUT] = tile.data_ptr()
        fields.run(function, job, tile.numel())
        yield slice(start, start + count), tile.to(dtype)


def dtype_of_many(inputs: Tensor) -> torch.dtype:
    """bfloat16 where it is asked for and the processor multiplies it; float32 is exacter."""
    is_quick = inputs.dtype == torch.bfloat16 and has_bfloat16()
    return torch.bfloat16 if is_quick else torch.float32


@cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; else float32 is faster."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

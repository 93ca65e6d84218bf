"""Integer weights on the CPU by torch's own packed matmuls, where a scheme fits them exactly.

`arrange` turns the canonical tensors into what the matmul reads, in as many bytes; `restore` turns
them back, exactly.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.formats import pack, unpack
from bitplan.schema import Scheme

COLUMNS_AT_ONCE = 512
"""Columns of a 4-bit weight that are read back together: bounds the memory that it takes."""


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From canonical tensors to the matmul's: `codes` and `grid`."""
    if scheme.bits == 8:
        # From offset binary to two's complement.
        return {"codes": (tensors["codes"] ^ 0x80).view(torch.int8), "grid": tensors["scale"]}
    codes = unpack(tensors["codes"], int(scheme.bits), columns).int()
    grid = torch.stack((tensors["scale"].t(), tensors["offset"].t()), dim=-1)
    blocks = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return {"codes": blocks, "grid": grid.contiguous()}


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the matmul's tensors to the canonical ones."""
    codes, grid = arranged["codes"], arranged["grid"]
    if scheme.bits == 8:
        return {"codes": codes.view(torch.uint8) ^ 0x80, "scale": grid}
    # The order within the blocks is torch's own and differs between processors; a product with
    # the identity on the unit grid reads the codes back wherever they lie.
    unit = torch.zeros(grid.shape, dtype=torch.float32)
    unit[..., 0] = 1
    half = 2 ** (int(scheme.bits) - 1)
    parts = []
    for start in range(0, columns, COLUMNS_AT_ONCE):
        some = torch.arange(start, min(start + COLUMNS_AT_ONCE, columns))
        identity = torch.nn.functional.one_hot(some, columns).float()
        parts.append((_int4(identity, codes, unit, scheme) + half).round().to(torch.uint8))
    return {
        "codes": pack(torch.cat(parts).t(), int(scheme.bits)),
        "scale": grid[..., 0].t().contiguous(),
        "offset": grid[..., 1].t().contiguous(),
    }


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    # The matmuls take the grid in the inputs' dtype. Scales of small weights vanish in float16, and
    # there is no matmul in float64: both are computed in float32.
    dtype = torch.bfloat16 if inputs.dtype == torch.bfloat16 else torch.float32
    flat = inputs.reshape(inputs.shape[:-1].numel(), inputs.shape[-1]).to(dtype).contiguous()
    codes, grid = arranged["codes"], arranged["grid"].to(dtype)
    if scheme.bits == 8:
        output = torch.ops.aten._weight_int8pack_mm(flat, codes, grid[:, 0])
    else:
        output = _int4(flat, codes, grid, scheme)
    return output.to(inputs.dtype).reshape(*inputs.shape[:-1], output.shape[-1])


def _int4(inputs: Tensor, codes: Tensor, grid: Tensor, scheme: Scheme) -> Tensor:
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return multiply(inputs, codes, scheme.group_size, grid)

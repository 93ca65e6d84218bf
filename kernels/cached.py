"""Keys and values that a cache holds as integers, on the CPU by compiled loops.

Rows are what `bitplan.formats.cached` makes of them, to the bit.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.native import job, keep
from bitplan.kernels.native.floats import fields_of
from bitplan.kernels.native.row_weight import Rows
from bitplan.schema import Scheme

DTYPES = (torch.float32, torch.bfloat16)


def unfit(scheme: Scheme, rows: Tensor) -> str | None:
    """Why rows cannot be kept so; None: they can."""
    if not scheme.is_integer:
        return "They are no integers"
    if scheme.group_size and scheme.group_size % 16:
        return "Compiled loops take groups of 16, 32, 48 and so on"
    return None if rows.is_cpu and rows.dtype in DTYPES else "They are elsewhere, or of float16"


def append(
    tensors: Mapping[str, Tensor], start: int, rows: Float[Tensor, "tokens width"], scheme: Scheme
) -> None:
    """Write rows to the tensors [capacity, ...] of one sequence, from the row `start` on."""
    rows = rows.contiguous()
    count, width = rows.shape
    codes, scale = tensors["codes"], tensors["scale"]
    fields = {
        keep.ROWS: count,
        keep.WIDTH: width,
        keep.INPUTS: rows.data_ptr(),
        keep.IS_HALF: rows.dtype == torch.bfloat16,
        keep.BITS: int(scheme.bits),
        keep.GROUP: scheme.group_size or width,
        keep.CODES: codes.data_ptr() + start * codes.shape[-1],
        keep.CODE_BYTES: codes.shape[-1],
    }
    for name, field in (("scale", keep.SCALE), ("offset", keep.OFFSET)):
        if name in tensors:
            size = scale.shape[-1] * scale.dtype.itemsize
            fields[field] = tensors[name].data_ptr() + start * size
    job.run(keep.function(), fields_of(keep.FIELDS, fields), count * width)


def read(
    tensors: Mapping[str, Tensor], count: int, width: int, scheme: Scheme, dtype: torch.dtype
) -> Float[Tensor, "count width"]:
    """The first rows of one sequence."""
    some = {name: tensor[:count] for name, tensor in tensors.items()}
    rows = Rows(tensors=some, columns=width, bits=int(scheme.bits), group=scheme.group_size)
    return rows.decoded(dtype)

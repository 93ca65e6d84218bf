"""Keys and values that a cache holds as integers, on the CPU by compiled loops.

Rows are what `bitplan.formats.cached` makes of them, to the bit.
"""

from array import array
from collections.abc import Mapping
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.decoder import attend_packed
from bitplan.kernels.native import job, keep
from bitplan.kernels.native.floats import fields_of
from bitplan.kernels.native.row_weight import Rows
from bitplan.schema import Scheme

DTYPES = (torch.float32, torch.bfloat16)


class Stored(Protocol):
    """Rows of sequences in a cache: tensors [batch, capacity, ...], filled up to `length`."""

    scheme: Scheme
    tensors: dict[str, Tensor]
    length: int
    width: int


def unfit(scheme: Scheme, rows: Tensor) -> str | None:
    """Why rows cannot be kept so; None: they can."""
    if not scheme.is_integer:
        return "They are no integers"
    if scheme.group_size and scheme.group_size % 16:
        return "Compiled loops take groups of 16, 32, 48 and so on"
    return None if rows.is_cpu and rows.dtype in DTYPES else "They are elsewhere, or of float16"


def append(
    tensors: Mapping[str, Tensor],
    start: int,
    rows: Float[Tensor, "batch tokens width"],
    scheme: Scheme,
) -> None:
    """Write rows to the tensors [batch, capacity, ...], from the row `start` on."""
    rows = rows.contiguous()
    batch, count, width = rows.shape
    codes, scale, offset = tensors["codes"], tensors["scale"], tensors.get("offset")
    fields = fields_of(
        keep.FIELDS,
        {
            keep.ROWS: count,
            keep.WIDTH: width,
            keep.INPUTS: rows.data_ptr(),
            keep.IS_HALF: rows.dtype == torch.bfloat16,
            keep.BITS: int(scheme.bits),
            keep.GROUP: scheme.group_size or width,
            keep.CODE_BYTES: codes.shape[-1],
        },
    )
    steps = [(keep.INPUTS, count * width * rows.itemsize)]
    kept = ((keep.CODES, codes), (keep.SCALE, scale), (keep.OFFSET, offset))
    for field, tensor in kept:
        if tensor is not None:
            of_row = tensor.shape[2] * tensor.itemsize
            fields[field] = tensor.data_ptr() + start * of_row
            steps.append((field, tensor.shape[1] * of_row))
    for _ in range(batch):
        job.run(keep.function(), fields, count * width)
        fields[keep.COUNTER] = 0
        for field, step in steps:
            fields[field] += step


def read(
    tensors: Mapping[str, Tensor], count: int, width: int, scheme: Scheme, dtype: torch.dtype
) -> Float[Tensor, "count width"]:
    """The first rows of one sequence."""
    some = {name: tensor[:count] for name, tensor in tensors.items()}
    rows = Rows(tensors=some, columns=width, bits=int(scheme.bits), group=scheme.group_size)
    return rows.decoded(dtype)


def tell(fields: array, first: int, rows: Stored) -> None:
    """Tell the job of attention where rows are, from its field `first` on: see `attend_packed`."""
    codes, scale, offset = rows.tensors["codes"], rows.tensors["scale"], rows.tensors.get("offset")
    of_vector, of_token = codes.shape[1] * codes.shape[2], codes.shape[2]
    start, groups = codes.data_ptr(), scale.shape[2]
    told = array("q", bytes(8 * attend_packed.OF_EACH))
    told[attend_packed.CODES], told[attend_packed.CODES_OF_VECTOR] = start, of_vector
    told[attend_packed.CODE_BYTES] = of_token
    told[attend_packed.END] = start + codes.shape[0] * of_vector
    told[attend_packed.BITS] = int(rows.scheme.bits)
    told[attend_packed.SHARED] = rows.scheme.group_size or rows.width
    told[attend_packed.GROUPS], told[attend_packed.SCALES] = groups, scale.data_ptr()
    told[attend_packed.OFFSETS] = 0 if offset is None else offset.data_ptr()
    told[attend_packed.GRID_OF_VECTOR] = scale.shape[1] * groups
    fields[first : first + attend_packed.OF_EACH] = told

"""Products and rows of an arranged weight: from torch's tensors to compiled loops and back."""

from array import array
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.errors import InputError
from bitplan.formats import MATRIX_SCALE
from bitplan.kernels.native import arrange as moves
from bitplan.kernels.native import dot, dot_product, product, rows, spans, trit_product, trit_rows
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.tiles import dtype_of_many, has_bfloat16, multiply_many, tiles
from bitplan.kernels.native.trits import TERNARY

FEW, FEW_OF_TERNARY = 16, 8
"""Vectors that are multiplied with codes, and with ternary ones; for more, rows are decoded and
left to torch."""

ALL = 1 << 40
"""A group that no row is longer than."""


def arrange(
    tensors: dict[str, Tensor], bits: int, flip: int = 0, *, quads: bool = False
) -> dict[str, Tensor]:
    """From canonical tensors to arranged ones, by the same names, each of one axis."""
    return {
        name: moves.arrange_codes(tensor, bits, flip, quads=quads)
        if name == "codes" and bits != TERNARY
        else tensor
        if name == MATRIX_SCALE
        else moves.arrange_grid(tensor)
        for name, tensor in tensors.items()
    }


def restore(
    arranged: dict[str, Tensor],
    columns: int,
    bits: int,
    group: int | None,
    flip: int = 0,
    *,
    quads: bool = False,
) -> dict[str, Tensor]:
    """From arranged tensors to the canonical ones."""
    height = _height(arranged, columns, group)
    return {
        name: moves.restore_codes(tensor, height, columns, bits, flip, quads=quads)
        if name == "codes" and bits != TERNARY
        else tensor
        if name == MATRIX_SCALE
        else moves.restore_grid(tensor, height)
        for name, tensor in arranged.items()
    }


def multiply(
    inputs: Float[Tensor, "*tokens in"],
    tensors: dict[str, Tensor],
    *,
    bits: int,
    group: int | None,
    scale_table: Tensor | None = None,
    quads: bool = False,
    digits: int | None = None,
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype; computed in float32.

    Args:
        inputs: of any floating-point dtype.
        tensors: `codes` and the grid, arranged (see `layout`).
        bits: of a code, or TERNARY.
        group: columns that share a scale, a multiple of 16; None: all.
        scale_table: float32 value of each byte of `scale`; None: bfloat16, or steps beside it.
        quads: whether codes lie in quads, and are multiplied as integers.
        digits: that inputs are written in then; None: as many as their dtype holds.
    """
    check_device(inputs)
    columns = inputs.shape[-1]
    dtype = inputs.dtype if inputs.dtype == torch.bfloat16 else torch.float32
    flat = inputs if inputs.dtype == dtype else inputs.to(dtype)
    if not flat.is_contiguous():
        flat = flat.contiguous()
    count = flat.numel() // columns if columns else 0
    job, height = _job(tensors, columns, bits, group, scale_table, quads)
    shape = (*inputs.shape[:-1], height)
    few = few_of(bits)
    if count > few and not (quads and _digits_are_quicker(dtype)):
        output = multiply_many(flat.view(count, columns), job, height).view(shape)
    else:
        output = torch.empty(shape, dtype=dtype)
        job[fields.INPUTS], job[fields.COUNT] = flat.data_ptr(), count
        job[fields.OUTPUT] = output.data_ptr()
        job[fields.INPUT_IS_BFLOAT16] = job[fields.OUTPUT_IS_BFLOAT16] = dtype == torch.bfloat16
        function = _function(job, digits or _digits_of(inputs.dtype))
        if quads and count > FEW:  # worth a round of its own: workers share the digits
            written = _write_digits(job)
            job[fields.WRITTEN] = written.data_ptr()
        fields.run(function, job, count * height * columns)
    return output if output.dtype == inputs.dtype else output.to(inputs.dtype)


def few(
    tensors: dict[str, Tensor],
    columns: int,
    count: int,
    dtype: torch.dtype,
    *,
    bits: int,
    group: int | None,
    scale_table: Tensor | None = None,
    quads: bool = False,
    digits: int | None = None,
) -> fields.Terms | None:
    """What `multiply` does with so many vectors, of float32 to float32, to be done later.

    Args:
        tensors: see `multiply`, like what follows.
        columns: of the weight.
        count: vectors, of which more than a few have none: None.
        dtype: how exact the product is to be; see `dot_product`.
        bits: of a code.
        group: columns that share a scale.
        scale_table: of each byte of `scale`.
        quads: whether codes lie in quads.
        digits: that inputs are written in then.
    """
    if count > few_of(bits):
        return None
    job, height = _job(tensors, columns, bits, group, scale_table, quads)
    job[fields.COUNT] = count
    function = _function(job, digits or _digits_of(dtype))
    job = fields.Job(function, job, count * height * columns, (tensors, scale_table))
    return [fields.Term((job,))]


def few_of(bits: int) -> int:
    """Vectors that are multiplied with codes of a width; for more, rows are decoded."""
    return FEW_OF_TERNARY if bits == TERNARY else FEW


def _digits_of(dtype: torch.dtype) -> int:
    """What holds all that a number of a dtype says."""
    return 3 if dtype.itemsize > 2 else 2


def _function(job: array, digits: int) -> Any:
    """What multiplies, and what it needs to know beside the weight and COUNT."""
    bits, count = job[fields.BITS], job[fields.COUNT]
    if bits == TERNARY:
        return trit_product.product()
    if not job[fields.QUADS]:
        job[fields.ADD_SPANS] = spans.add_spans(bits).address
        return product.product()
    job[fields.DIGITS] = digits
    job[fields.ADD_SPANS] = dot_product.add_spans(bits, digits, 1).address
    if count >= (together := dot_product.TOGETHER):
        job[fields.ADD_TOGETHER] = dot_product.add_spans(bits, digits, together).address
    return dot_product.product()


def _write_digits(job: array) -> Tensor:
    """The digits of all inputs, each written once."""
    columns, count = job[fields.COLUMNS], job[fields.COUNT]
    size = dot_product.bytes_of_digits(columns, count, job[fields.GROUP], job[fields.DIGITS])
    written = torch.empty(size, dtype=torch.uint8)
    job[fields.WRITTEN] = written.data_ptr()
    fields.run(dot_product.write_digits(), job, count * columns)
    job[fields.COUNTER] = 0
    return written


def _digits_are_quicker(dtype: torch.dtype) -> bool:
    """Whether many vectors are multiplied in digits sooner than by torch with decoded rows."""
    return dot.instructions() == "vnni" and not (dtype == torch.bfloat16 and has_bfloat16())


def chosen_rows(
    tokens: Int[Tensor, "*tokens"],
    tensors: dict[str, Tensor],
    columns: int,
    dtype: torch.dtype,
    *,
    bits: int,
    group: int | None,
    scale_table: Tensor | None = None,
    quads: bool = False,
) -> Float[Tensor, "*tokens in"]:
    """Rows of an arranged weight; see `multiply`. Raises IndexError where there is no such row."""
    check_device(tokens)
    job, height = _job(tensors, columns, bits, group, scale_table, quads)
    numbers = tokens.to(torch.int64).contiguous()
    output = torch.empty((*tokens.shape, columns))
    job[fields.INPUTS], job[fields.COUNT] = numbers.data_ptr(), numbers.numel()
    job[fields.OUTPUT] = output.data_ptr()
    function = trit_rows.chosen() if bits == TERNARY else rows.chosen()
    fields.run(function, job, output.numel())
    if job[fields.IS_MISSING]:
        raise IndexError(f"row {job[fields.FIRST]} is looked up in a weight of {height} rows")
    return output.to(dtype)


def multiply_back(
    gradient: Float[Tensor, "*tokens out"],
    tensors: dict[str, Tensor],
    columns: int,
    *,
    bits: int,
    group: int | None,
    scale_table: Tensor | None = None,
    quads: bool = False,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `multiply`."""
    check_device(gradient)
    job, height = _job(tensors, columns, bits, group, scale_table, quads)
    dtype = dtype_of_many(gradient)
    flat = gradient.reshape(-1, height).to(dtype)
    output = torch.zeros(len(flat), columns, dtype=torch.float32)
    for some, tile in tiles(job, columns, height, dtype):
        output += flat[:, some] @ tile.t()
    return output.to(gradient.dtype).view(*gradient.shape[:-1], columns)


def check_device(inputs: Tensor) -> None:
    """Compiled loops are given an address: it must be one that they can read."""
    if not inputs.is_cpu:
        raise InputError(
            f"The inputs are on {inputs.device}, but the weight is on the CPU. Move the model or "
            "the inputs: both must be on one device."
        )


def _job(
    tensors: dict[str, Tensor],
    columns: int,
    bits: int,
    group: int | None,
    scale_table: Tensor | None,
    quads: bool,
) -> tuple[array, int]:
    """What every job on a weight needs, and the number of its rows."""
    height = _height(tensors, columns, group)
    job = _EMPTY[:]
    job[fields.CODES], job[fields.SCALE] = tensors["codes"].data_ptr(), tensors["scale"].data_ptr()
    job[fields.ROWS], job[fields.COLUMNS] = height, columns
    job[fields.GROUP], job[fields.BITS], job[fields.QUADS] = group or ALL, bits, quads
    if len(tensors) > 2:
        for name, field in MORE.items():
            if name in tensors:
                job[field] = tensors[name].data_ptr()
    if scale_table is not None:
        job[fields.SCALE_TABLE] = scale_table.data_ptr()
    return job, height


_EMPTY = array("q", bytes(8 * fields.FIELDS))

MORE = {
    "offset": fields.OFFSET,
    "scale_step": fields.SCALE_STEP,
    "offset_step": fields.OFFSET_STEP,
}


def _height(tensors: dict[str, Tensor], columns: int, group: int | None) -> int:
    """Rows of an arranged weight: it has a scale for each group of each."""
    return tensors["scale"].numel() // max(1, -(-columns // (group or ALL)))

"""Integer weights on a GPU by Triton, CUDA's or ROCm's.

`arrange` turns the canonical tensors into what the kernels read, in as many bytes; `restore` turns
them back, exactly. `linear` is one operator to torch, `bitplan::integer_linear`, so a compiled
model is not interrupted by it; only its first call needs Triton.
"""

from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.errors import InputError
from bitplan.kernels.gpu.layout import CELL
from bitplan.kernels.gpu.layout import arrange as arrange
from bitplan.kernels.gpu.layout import restore as restore
from bitplan.kernels.integer import reference
from bitplan.schema import Scheme


def unfit(scheme: Scheme, columns: int) -> str | None:
    """Why there is no kernel for a coded scheme and rows of so many columns, or None.

    >>> unfit(Scheme.parse("int3g64"), 100)
    'the Triton kernels want columns in 32s'
    """
    if not scheme.is_integer or scheme.double or scheme.sparsity:
        return "the Triton kernels are of integers with plain scales"
    if columns % CELL:
        return f"the Triton kernels want columns in {CELL}s"
    if find_spec("triton") is None:
        return "Triton is not installed"
    return None


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype.

    Where a gradient is wanted, of the inputs or of the grid, the reference decodes and multiplies.
    """
    codes, grid, columns = arranged["codes"], arranged["grid"], inputs.shape[-1]
    rows = grid.shape[1]
    if len(codes) != rows * columns // CELL * int(scheme.bits):
        held = len(codes) * CELL // int(scheme.bits) // rows
        raise InputError(
            f"The inputs have {columns} features, but the weight takes {held}. Give it what the "
            "dense layer was given."
        )
    if torch.is_grad_enabled() and (inputs.requires_grad or grid.requires_grad):
        return reference.linear(inputs, restore(arranged, scheme, columns), scheme)
    return torch.ops.bitplan.integer_linear(inputs, codes, grid, str(scheme))


@torch.library.custom_op("bitplan::integer_linear", mutates_args=())
def integer_linear(inputs: Tensor, codes: Tensor, grid: Tensor, scheme: str) -> Tensor:
    """See `linear`; torch's operators take a scheme by its name alone."""
    from bitplan.kernels.gpu.launch import multiply

    flat = inputs.reshape(inputs.shape[:-1].numel(), inputs.shape[-1])
    output = multiply(flat, codes, grid, Scheme.parse(scheme), grid.shape[1])
    return output.reshape(*inputs.shape[:-1], grid.shape[1])


@integer_linear.register_fake
def _(inputs: Tensor, codes: Tensor, grid: Tensor, scheme: str) -> Tensor:
    del codes, scheme
    return inputs.new_empty(*inputs.shape[:-1], grid.shape[1])

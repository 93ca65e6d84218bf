"""Products with a weight on the CPU by compiled loops that read row by row what is packed.

For schemes whose rows cannot lie beside each other as others do (`native.layout`), because each
keeps weights of other columns, and for those that look codes up: sixteen columns of a row have one
table, and one scale.
"""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from bitplan.formats.codebook import codebook_of
from bitplan.kernels.codebook.scales import byte_scales
from bitplan.kernels.native.job import Terms
from bitplan.kernels.native.row_weight import Rows
from bitplan.kernels.native.sixteen import ENTRIES
from bitplan.kernels.native.trits import TERNARY
from bitplan.schema import Scheme


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """The canonical tensors: the loops read them as they are."""
    del scheme, columns
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """The same tensors."""
    del scheme, columns
    return dict(arranged)


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    return _rows(arranged, scheme, inputs.shape[-1]).multiply(inputs)


def few(
    arranged: dict[str, Tensor], scheme: Scheme, columns: int, count: int, dtype: torch.dtype
) -> Terms | None:
    """The product with a few vectors, for later: see `native.weight.few`."""
    return _rows(arranged, scheme, columns).few(count, dtype)


def linear_back(
    gradient: Float[Tensor, "*tokens out"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `linear`."""
    return _rows(arranged, scheme, columns).multiply_back(gradient)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    return _rows(arranged, scheme, columns).chosen_rows(tokens, dtype)


def _rows(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> Rows:
    return Rows(
        tensors=arranged,
        columns=columns,
        bits=TERNARY if scheme.family.is_ternary else int(scheme.bits),
        group=scheme.group_size,
        table=None if scheme.is_integer else _values(scheme),
        scale_table=None if scheme.is_integer else byte_scales(arranged, scheme),
        sparsity=scheme.sparsity,
    )


@cache
def _values(scheme: Scheme) -> Float[Tensor, "entries"]:
    """The value of each code; of several codebooks one after another, each of `ENTRIES`."""
    tables = (codebook_of(scheme, n).table.float() for n in range(scheme.family.choices))
    return torch.cat([pad(table, (0, max(0, ENTRIES - len(table)))) for table in tables])

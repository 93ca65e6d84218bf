"""The exact byte model: what one matrix takes in one scheme, codes, scales, offsets and padding.

A coded matrix [out, in] is packed row by row. A row of codes is padded to a multiple of 8, and 8
codes of B bits take B bytes, so that every width from 1 to 8 bits ends on whole bytes; 5 ternary
codes take a byte. Of two planes each is packed so, one after the other. Each group of a row has a
scale for each plane, and in an asymmetric integer scheme an offset: bfloat16 numbers; or bytes,
with a bfloat16 step for every 256 of them; or a scale of one byte.
`nvfp4` has a float32 number for each matrix as well, `bitmod` 2 bits for each group, packed as
codes are. Where some weights are zero the others alone have codes, and which they are takes a bit a
weight, or in N:M sparsity as many bits a block as there are patterns to tell apart, packed
likewise. Salient columns and low-rank terms are matrices of their own beside the base, see
`bitplan.schema.parts`, and the number of a salient column takes four bytes. Where columns are left
out, a bit a column, packed likewise, says which are not, and all else is of the others. `none`
takes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

from bitplan.errors import SchemeError
from bitplan.schema import (
    BASE,
    FLOAT_BITS,
    INDEX_BYTES,
    Layer,
    Scheme,
    narrowed,
    parts,
    salient_columns,
    scheme_names,
    unfit,
)

CODES_A_PACK = 8
TERNARY_A_BYTE = 5
SCALES_A_STEP = 256
STEP_BYTES = 2
CHOICE_BITS = 2

FLOAT_OF_DTYPE = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""The scheme that keeps what is stored in a dtype as it is."""

_LARGEST_OF_DTYPE = FLOAT_OF_DTYPE | {"float64": "fp32"}
_DEFAULT_INTEGERS = (
    "int2g64d",
    "int3g64d",
    "int4g64d",
    "int5g64d",
    "int6g64d",
    "int8g64d",
    # What other matmuls read, too, as torch's: no other scheme here is for `--runtime torch-cpu`.
    "int4g128",
    "int4g64",
    "int8s",
)
_CACHE_BITS = (2, 4, 8)
_CACHE_GROUPS = (32, 64)


def scheme_bytes(shape: Sequence[int], scheme: Scheme) -> int:
    """Bytes of a matrix [out, in], or of a stack of matrices [experts, out, in], in a scheme.

    >>> scheme_bytes((576, 1536), Scheme.parse("int3g64"))  # 331,776 codes, 27,648 each side
    387072
    >>> scheme_bytes((576, 1536), Scheme.parse("int3g64+1%int8"))  # 16 columns, and their numbers
    394048
    >>> scheme_bytes((576, 1536), Scheme.parse("int3g64+25%ch"))  # of 1,152 columns, and 1,536 bits
    290496
    """
    if scheme.is_none:
        return 0
    each = (_plain_bytes(of_part, plain) for plain, of_part in parts(scheme, shape).values())
    return sum(each) + prod(shape[:-2]) * _index_bytes(shape, scheme)


def _index_bytes(shape: Sequence[int], scheme: Scheme) -> int:
    """What says which columns of one matrix are salient, and which are left out."""
    numbers = salient_columns(scheme, narrowed(scheme, shape)[-1]) * INDEX_BYTES
    return numbers + (-(-shape[-1] // CODES_A_PACK) if scheme.channels else 0)


def _plain_bytes(shape: Sequence[int], scheme: Scheme) -> int:
    rows, row = prod(shape[:-1]), shape[-1]
    if scheme.is_float:
        return rows * row * FLOAT_BITS[scheme.format] // 8
    family = scheme.family
    groups = -(-row // (scheme.group_size or row))
    numbers_a_group = family.planes if scheme.symmetric else 2
    scales = numbers_a_group * (
        groups + -(-groups // SCALES_A_STEP) * STEP_BYTES
        if scheme.double
        else groups * family.scale_bytes
    )
    choices = -(-groups // CODES_A_PACK) * CHOICE_BITS if family.choices > 1 else 0
    each = code_bytes(row, scheme) + mask_bytes(row, scheme) + scales + choices
    return rows * each + prod(shape[:-2]) * family.matrix_bytes


def code_bytes(row: int, scheme: Scheme) -> int:
    """Bytes of the codes of one row.

    >>> [code_bytes(17, Scheme.parse(name)) for name in ("int3", "ternary", "ternary2")]
    [9, 4, 8]
    >>> code_bytes(64, Scheme.parse("int3+2:4"))
    12
    """
    row = scheme.sparsity.columns(row) if scheme.sparsity else row
    family = scheme.family
    if family.is_ternary:
        return family.planes * -(-row // TERNARY_A_BYTE)
    return -(-row // CODES_A_PACK) * int(family.bits)


def mask_bytes(row: int, scheme: Scheme) -> int:
    """Bytes that tell which weights of a row are zero.

    >>> mask_bytes(64, Scheme.parse("int3+2:4")), mask_bytes(64, Scheme.parse("int3+50%"))
    (6, 8)
    """
    if scheme.sparsity is None:
        return 0
    codes = row // (scheme.sparsity.block or 1)
    return -(-codes // CODES_A_PACK) * scheme.sparsity.code_bits


def dense_bytes(shape: Sequence[int], dtype: object) -> int:
    """Bytes of a matrix, or a stack of them, that is not compressed.

    >>> dense_bytes((576, 1536), "bfloat16")
    1769472
    """
    return prod(shape) * FLOAT_BITS[_float_of(dtype)] // 8


def canonical(scheme: Scheme, shape: Sequence[int]) -> Scheme:
    """The scheme by its plainest name: a group as long as the row, or longer, is the whole row.

    Where the format fixes the group, it stays. The row is that of the base.

    >>> str(canonical(Scheme.parse("int4g128"), (32, 96)))
    'int4'
    """
    _, (*_, row) = parts(scheme, shape)[BASE]
    if scheme.is_float or scheme.is_none or scheme.family.group_size or scheme.group_size is None:
        return scheme
    if scheme.group_size < row:
        return scheme
    return replace(scheme, group_size=None, double=False)


def legal_schemes(
    layer: Layer, dtype: object, menu: Iterable[Scheme | str] | None = None
) -> tuple[Scheme, ...]:
    """The schemes of a menu that a layer may take, in the menu's order, each once.

    `dtype` is what the weights are stored in, a torch dtype or its name: a floating-point format
    wider than that is left out, and what a matrix of its shape cannot have, and `none`, which is
    not for a layer alone. A group that spans the row becomes the whole row (`canonical`). Without a
    menu, all schemes there are. Raises `SchemeError` for an unknown name or dtype.
    """
    widest = FLOAT_BITS[_float_of(dtype)]
    schemes = map(Scheme.parse, scheme_names() if menu is None else menu)
    fitting = (
        canonical(scheme, layer.shape)
        for scheme in schemes
        if (not scheme.is_float or scheme.bits <= widest)
        and not scheme.is_none
        and unfit(scheme, layer.shape) is None
    )
    return tuple(dict.fromkeys(fitting))


def default_schemes(dtype: object) -> tuple[Scheme, ...]:
    """The menu when none is given: integers from 2 to 8 bits, and keeping the layer as it is.

    Most have scales and offsets of a byte, which lose next to nothing and leave room for codes.
    A float32 or float64 model may keep a layer in bf16 or fp32.
    """
    return tuple(map(Scheme.parse, (*_DEFAULT_INTEGERS, *_floats(dtype))))


def default_cache_schemes(dtype: object, head_dim: int) -> tuple[Scheme, ...]:
    """The menu of cached keys and values when none is given: 2, 4, 8 bits, and as they are.

    A group lies along one token's vector and, where 32 or 64 divides `head_dim`, within one head.
    """
    groups = [size for size in _CACHE_GROUPS if head_dim % size == 0] or _CACHE_GROUPS[:1]
    integers = [f"int{bits}g{group}" for bits in _CACHE_BITS for group in groups]
    return tuple(map(Scheme.parse, (*integers, *_floats(dtype))))


def _floats(dtype: object) -> tuple[str, ...]:
    own = _float_of(dtype)
    return ("bf16", "fp32") if own == "fp32" else (own,)


def _float_of(dtype: object) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in _LARGEST_OF_DTYPE:
        known = ", ".join(_LARGEST_OF_DTYPE)
        raise SchemeError(f"Weights of dtype {name} have no scheme; bitplan compresses {known}.")
    return _LARGEST_OF_DTYPE[name]

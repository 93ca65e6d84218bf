"""What a kernel is compiled for."""

from dataclasses import dataclass

from bitplan.kernels.gpu.numbers import Numbers, numbers_of
from bitplan.kernels.gpu.shapes import Blocks, Device
from bitplan.schema import Scheme


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A constant of the kernels, read by Triton as it is.

    `group` is 0 where a row is one; `per` scales share a word of the grid. `rows`, `tokens` and
    `stages` are those of `Blocks`.
    """

    columns: int
    bits: int
    group: int
    symmetric: bool
    scale: str
    per: int
    numbers: Numbers
    cuda: bool
    many: bool
    rows: int
    tokens: int
    stages: int


def spec_of(
    columns: int,
    dtype: str,
    scheme: Scheme,
    blocks: Blocks,
    device: Device,
    *,
    precise: bool = False,
    part: int = 0,
) -> Spec:
    """The constant for a weight of so many columns and inputs of a dtype."""
    group = scheme.group_size if scheme.group_size and scheme.group_size < columns else 0
    numbers = numbers_of(
        scheme, dtype, many=blocks.many, cuda=device.cuda, precise=precise, part=part
    )
    return Spec(
        columns=columns,
        bits=int(scheme.bits),
        group=group,
        symmetric=scheme.symmetric,
        scale=scheme.family.scale,
        per=scales_in_word(scheme, columns),
        numbers=numbers,
        cuda=device.cuda,
        many=blocks.many,
        rows=blocks.rows,
        tokens=blocks.tokens,
        stages=blocks.stages,
    )


def scales_in_word(scheme: Scheme, columns: int) -> int:
    """How many groups' scales a word of the grid has: see `arrange` of `layout`.

    >>> [scales_in_word(Scheme.parse("mxfp4"), n) for n in (256, 576)]
    [4, 1]
    """
    groups = -(-columns // (scheme.group_size or columns))
    per = 4 // scheme.family.scale_bytes
    return per if scheme.symmetric and groups % per == 0 else 1

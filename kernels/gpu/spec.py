"""What a kernel is compiled for."""

from dataclasses import dataclass

from bitplan.kernels.gpu.grids import groups_in_word
from bitplan.kernels.gpu.numbers import Numbers, numbers_of
from bitplan.kernels.gpu.shapes import Blocks, Device
from bitplan.schema import Scheme


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A constant of the kernels, read by Triton as it is.

    `group` is 0 where a row is one; `scale` says what a scale is stored in, a byte of
    a `step` of its row too; `per` groups share a word of the grid. `rows`, `tokens` and
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
        scale="step" if scheme.double else scheme.family.scale,
        per=groups_in_word(scheme, columns),
        numbers=numbers,
        cuda=device.cuda,
        many=blocks.many,
        rows=blocks.rows,
        tokens=blocks.tokens,
        stages=blocks.stages,
    )

"""What a kernel is compiled for."""

from dataclasses import dataclass

from bitplan.formats.double import CENTRES, SHARED
from bitplan.kernels.gpu.grids import choices_in_word, groups_in_word, names_of
from bitplan.kernels.gpu.kept import PITCH, Kept, kept_of
from bitplan.kernels.gpu.layout import bits_of, panel_of
from bitplan.kernels.gpu.numbers import Numbers, numbers_of
from bitplan.kernels.gpu.shapes import Blocks, Device
from bitplan.schema import Scheme


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A constant of the kernels, read by Triton as it is.

    `panel` are columns of a whole one, `trits` says whether codes are ternary; `bits` are a code's,
    or of ternary ones the words of a panel's cell, as `words` are of others. Numbers are made of
    codes that are `pitch` bits apart, all of a row's or those that are `kept`. `group` is 0 where a
    row is one; `scale` says what a scale is stored in, a byte of a `step` of its row too, which is
    then less `centre`, and of which a row has `steps`, each for `shared` groups; `per` groups share
    a word of the grid, and `choices_per` a word of choices, 0 where there are none. `rows`,
    `tokens` and `stages` are those of `Blocks`.
    """

    columns: int
    panel: int
    trits: bool
    bits: int
    words: int
    pitch: int
    kept: Kept
    group: int
    symmetric: bool
    scale: str
    per: int
    centre: int
    steps: int
    shared: int
    choices_per: int
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
    plane: int = 0,
) -> Spec:
    """The constant for a plane of a weight of so many columns and inputs of a dtype."""
    group = scheme.group_size if scheme.group_size and scheme.group_size < columns else 0
    kept = kept_of(scheme, columns)
    numbers = numbers_of(
        scheme, dtype, many=blocks.many, cuda=device.cuda, precise=precise, part=part
    )
    return Spec(
        columns=columns,
        panel=panel_of(scheme),
        trits=scheme.family.is_ternary,
        bits=bits_of(scheme),
        words=kept.words if scheme.sparsity else bits_of(scheme),
        pitch=PITCH if scheme.sparsity else bits_of(scheme),
        kept=kept,
        group=group,
        symmetric=scheme.symmetric,
        scale="step" if scheme.double else scheme.family.scale,
        per=groups_in_word(scheme, columns),
        centre=CENTRES[names_of(scheme, plane)[0]],
        steps=-(-columns // (SHARED * (group or columns))),
        shared=SHARED,
        choices_per=choices_in_word(scheme, columns),
        numbers=numbers,
        cuda=device.cuda,
        many=blocks.many,
        rows=blocks.rows,
        tokens=blocks.tokens,
        stages=blocks.stages,
    )

"""The plain matrices that a matrix is stored as: a base, and what its scheme adds to it.

A weight [out, in] with salient columns has a base [out, in - k] of the columns that are left, in
their order, and a matrix [out, k] of the others; a low-rank term is two more matrices. Each is
stored as any matrix of its own scheme and shape. An int32 for each salient column, in rising
order, says which they are.

Where columns are left out, all of that is of the narrower matrix of the others, in their order, and
numbers of columns count those alone; a bit a column, eight in a byte, says which they are.
"""

from collections.abc import Sequence

from bitplan.schema.scheme import Scheme

BASE, SALIENT, UP, DOWN = "base", "salient", "up", "down"
"""The parts: columns that are left, columns that are kept, and U and V of what is added."""

COLUMNS = "columns"
"""The name of the indices of salient columns."""

KEPT = "kept"
"""The name of the bits of columns that are not left out."""

INDEX_BYTES = 4

INT8 = Scheme.parse("int8s")
"""Of U and V, and of salient columns in `int8`."""


def parts(scheme: Scheme, shape: Sequence[int]) -> dict[str, tuple[Scheme, tuple[int, ...]]]:
    """Scheme and shape of each part; of a plain scheme the base alone.

    >>> {name: part[1] for name, part in parts(Scheme.parse("int3g64+2%int8"), (576, 576)).items()}
    {'base': (576, 560), 'salient': (576, 16)}
    """
    *outer, row = narrowed(scheme, shape)
    kept = salient_columns(scheme, row)
    found = {BASE: (scheme.base, (*outer, row - kept))}
    if scheme.salient is not None:
        own = INT8 if scheme.salient.format == "int8" else Scheme.parse(scheme.salient.format)
        found[SALIENT] = (own, (*outer, kept))
    if scheme.low_rank is not None:
        rank = scheme.low_rank.rank
        found[UP] = (INT8, (*outer, rank))
        found[DOWN] = (INT8, (*outer[:-1], rank, row))
    return found


def narrowed(scheme: Scheme, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a matrix without the columns that its scheme leaves out.

    >>> narrowed(Scheme.parse("int3g64+25%ch"), (576, 1536))
    (576, 1152)
    """
    *outer, row = shape
    return (*outer, scheme.channels.kept(row) if scheme.channels else row)


def salient_columns(scheme: Scheme, row: int) -> int:
    """How many of the columns that are not left out are not in the base."""
    return scheme.salient.columns(row) if scheme.salient else 0


def unfit(scheme: Scheme, shape: Sequence[int]) -> str | None:
    """Why a matrix of this shape cannot be stored in a scheme, or None."""
    if scheme.channels and (reason := scheme.channels.unfit(shape[-1])):
        return reason
    *_, row = shape = narrowed(scheme, shape)
    if scheme.salient and (reason := scheme.salient.unfit(row)):
        return reason
    if scheme.sparsity and (reason := scheme.sparsity.unfit(row - salient_columns(scheme, row))):
        return reason
    return scheme.low_rank.unfit(shape) if scheme.low_rank else None

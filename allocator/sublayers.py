"""Sublayers that may be left out: their rows as one, so that all of it is `none` or nothing is.

What is left of a sublayer that stays is a scheme for each of its rows. A product of rows has a
column for every mix of schemes that no other mix beats in loss, bytes and all that is limited:
whatever the solver, no best choice contains another. Behind the columns of the single schemes,
which mean what they mean in any row, come those mixes; and in the column of `none`, all at once.
Source: Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", the chapter on multiple choice,
for what dominates what.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from bitplan.allocator.rules import Rule
from bitplan.errors import InputError, SchemeError
from bitplan.schema import LEFT_OUT, CostTable, Scheme, Sublayer

Mix: TypeAlias = tuple[int, ...]
"""The scheme's column of each of a row's layers."""

MOST_COLUMNS = 2**15 - 1
"""What a hull's steps can name."""


def settle(
    groups: Sequence[Sequence[str]],
    legal: Sequence[frozenset[str]],
    sublayers: Sequence[Sublayer],
    left_out: frozenset[str] | None,
) -> tuple[list[frozenset[str]], list[list[int]]]:
    """What rows may take where sublayers stay or go whole, and the rows that are still to decide.

    Args:
        groups: layers of each row.
        legal: schemes of each row, by its own layers and rules alone.
        sublayers: of the table.
        left_out: layers whose sublayers go, where they may; None: to be decided. Where a tie joins
            several sublayers, they stay if they may.

    Returns:
        The schemes of each row, which may be none at all, and lists of rows that are to be one.
    """
    settled, undecided = list(legal), []
    for rows, is_alone in _joined(groups, sublayers):
        may_go = all(LEFT_OUT in legal[row] for row in rows)
        may_stay = all(legal[row] - {LEFT_OUT} for row in rows)
        goes = may_go
        if may_go and may_stay:
            if left_out is None and is_alone:
                undecided.append(rows)
                continue
            goes = any(name in (left_out or ()) for row in rows for name in groups[row])
        for row in rows:
            settled[row] = legal[row] & {LEFT_OUT} if goes else legal[row] - {LEFT_OUT}
    return settled, undecided


def _joined(
    groups: Sequence[Sequence[str]], sublayers: Sequence[Sublayer]
) -> list[tuple[list[int], bool]]:
    """Rows that sublayers join, rising, and whether one sublayer alone does."""
    row = {name: index for index, names in enumerate(groups) for name in names}
    parts: list[tuple[set[int], int]] = []
    for sublayer in sublayers:
        rows, count = {row[name] for name in sublayer.layers}, 1
        for other in [part for part in parts if part[0] & rows]:
            parts.remove(other)
            rows, count = rows | other[0], count + other[1]
        parts.append((rows, count))
    return [(sorted(rows), count == 1) for rows, count in parts]


def mixes(costs: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """The mixes of schemes of some rows that no other beats: columns [mixes, rows] int.

    Args:
        costs: [costs, rows, schemes], of which less is better; where not legal, anything.
        legal: [rows, schemes]
    """
    picked, total = np.empty((1, 0), int), np.zeros((len(costs), 1))
    for row, may in enumerate(legal):
        columns = np.flatnonzero(may)
        total = (total[:, :, None] + costs[:, row, columns][:, None]).reshape(len(costs), -1)
        best = _unbeaten(total)
        before, last = np.divmod(best, columns.size)
        picked = np.column_stack([picked[before], columns[last]])
        total = total[:, best]
    return picked


def _unbeaten(costs: np.ndarray) -> np.ndarray:
    """Which of some columns [costs, any] no other is as good as in every cost; of equals one."""
    order = np.lexsort(costs[::-1])
    if len(costs) == 2:
        second = costs[1, order]
        least = np.minimum.accumulate(second)
        return order[np.append(True, second[1:] < least[:-1])]
    # Whatever beats a column comes before it.
    kept: list[int] = []
    for index in order.tolist():
        if not (costs[1:, kept] <= costs[1:, [index]]).all(axis=0).any():
            kept.append(index)
    return np.array(kept)


def check_columns(count: int) -> None:
    """Raise `InputError` for more columns than a problem can have."""
    if count > MOST_COLUMNS:
        raise InputError(
            f"A sublayer that may be left out has {count:,} mixes of schemes, none of which beats "
            f"another, and there may be {MOST_COLUMNS:,}. Leave a limit, some schemes, or "
            f"{LEFT_OUT} out."
        )


def check_open(table: CostTable, rules: Sequence[Rule]) -> None:
    """Raise `InputError` for what cannot be asked for while sublayers may be left out."""
    wrong = ["interactions between layers"] if table.interactions else []
    wrong += [rule.name for rule in rules if rule.most_schemes is not None]
    if wrong:
        raise InputError(
            f"{wrong[0][0].upper()}{wrong[0][1:]} cannot be kept to while it is open which "
            "sublayers are left out. Say which are: Constraints(left_out=frozenset()) for none, or "
            "leave the scheme none out of the table."
        )


def check_whole(table: CostTable, schemes: Mapping[str, Scheme]) -> None:
    """Raise `SchemeError` for schemes, by layer name, that leave out a part of a sublayer."""
    for sublayer in table.sublayers:
        gone = [name for name in sublayer.layers if schemes[name].is_none]
        if gone and len(gone) < len(sublayer.layers):
            raise SchemeError(
                f"The assignment leaves out {', '.join(gone)}, but {LEFT_OUT} is for whole "
                f"sublayers. Give it to all of {sublayer.name}, or to none of it."
            )

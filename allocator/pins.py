"""What the caller fixes beforehand: layers by wildcard, and the schemes that they may take."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from bitplan.errors import InputError, SchemeError
from bitplan.schema import CostTable, Row, Scheme

Pins: TypeAlias = Mapping[str, str | Scheme | Sequence[str | Scheme]]
"""Layer name or wildcard -> a scheme, or several."""


def allowed_names(table: CostTable, pins: Pins) -> dict[str, frozenset[str]]:
    """Names of the schemes that each pinned layer may take; other layers are not in it.

    Where several pins match a layer, the last one counts: put the general before the special.

    Raises:
        InputError: a pin that matches no layer.
        SchemeError: a pin that leaves a layer without a scheme.
    """
    rows = {row.layer.name: row for row in table.rows}
    chosen: dict[str, tuple[str, ...]] = {}
    for pattern, schemes in pins.items():
        names = _names(schemes)
        matches = [name for name in rows if name == pattern or fnmatchcase(name, pattern)]
        if not matches:
            raise InputError(
                f"The pin {pattern!r} matches no layer. {_closest(pattern, rows)} "
                "A * stands for any characters."
            )
        _check_known(pattern, names, table)
        chosen.update(dict.fromkeys(matches, names))
    return {name: _legal(rows[name], names) for name, names in chosen.items()}


def _names(schemes: str | Scheme | Sequence[str | Scheme]) -> tuple[str, ...]:
    several = [schemes] if isinstance(schemes, str | Scheme) else schemes
    return tuple(str(Scheme.parse(scheme)) for scheme in several)


def _check_known(pattern: str, names: tuple[str, ...], table: CostTable) -> None:
    """Refuse a scheme that the table has for no layer at all: most likely a slip."""
    known = {str(cost.scheme) for row in table.rows for cost in row.costs}
    for name in names:
        if name not in known:
            raise SchemeError(
                f"The pin {pattern!r} asks for {name}, which the cost table does not have. "
                f"{_closest(name, known)} Or measure again with {name} among the schemes."
            )


def _legal(row: Row, names: tuple[str, ...]) -> frozenset[str]:
    has = {str(cost.scheme) for cost in row.costs}
    legal = has.intersection(names)
    if not legal:
        raise SchemeError(
            f"The layer {row.layer.name} is pinned to {', '.join(names) or 'no scheme at all'}, "
            f"but the cost table has it only in {', '.join(sorted(has))}. Pin it to one of these."
        )
    return frozenset(legal)


def _closest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"Closest of {len(known)}: {', '.join(close)}."

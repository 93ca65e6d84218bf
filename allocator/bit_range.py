"""Floors and ceilings: no fewer, or no more, bits per weight than a number or a scheme."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TypeAlias

from bitplan.allocator.limit import number_text
from bitplan.allocator.rules import Rule
from bitplan.allocator.wildcards import last_match
from bitplan.errors import InputError, SchemeError
from bitplan.footprint import scheme_bytes
from bitplan.schema import CostTable, Layer, Row, Scheme

Bits: TypeAlias = str | Scheme | float
"""A scheme, or a number of bits per weight."""


def bits_of(text: str | float) -> Scheme | float:
    """A scheme or a number of bits, as people write them. Raises `SchemeError`.

    >>> bits_of("4.5"), str(bits_of("int4g64"))
    (4.5, 'int4g64')
    """
    try:
        return float(text)
    except ValueError:
        return Scheme.parse(str(text))


def floor_rules(table: CostTable, floors: Mapping[str, Bits]) -> list[Rule]:
    """A rule for every floor that decides a layer. Raises as `ceiling_rules`."""
    return _rules(table, floors, "floor", lambda size, bound: size >= bound)


def ceiling_rules(table: CostTable, ceilings: Mapping[str, Bits]) -> list[Rule]:
    """A rule for every ceiling that decides a layer.

    Raises:
        InputError: a ceiling that matches no layer, or is no number above zero.
        SchemeError: no scheme of a layer is below it.
    """
    return _rules(table, ceilings, "ceiling", lambda size, bound: size <= bound)


def _rules(
    table: CostTable,
    bounds: Mapping[str, Bits],
    noun: str,
    keeps: Callable[[Fraction, Fraction], bool],
) -> list[Rule]:
    rows = {row.layer.name: row for row in table.rows}
    rules = []
    for pattern, layers in last_match(noun, bounds, rows).items():
        bits = _checked(noun, pattern, bounds[pattern])
        words = (
            f"the {noun} {pattern!r} = {bits if isinstance(bits, Scheme) else number_text(bits)}"
        )
        allowed = {}
        for name in layers:
            row, bound = rows[name], _bits_of(bits, rows[name])
            allowed[name] = frozenset(
                str(cost.scheme) for cost in row.costs if keeps(_bits(cost.bytes, row.layer), bound)
            )
            if not allowed[name]:
                raise SchemeError(
                    f"T{words[1:]} leaves {name} no scheme: the cost table has "
                    f"it in {_menu(row)} bits per weight, scales included. Change the {noun}, or "
                    "measure with other schemes."
                )
        if allowed:
            rules.append(Rule(name=words, allowed=allowed))
    return rules


def _checked(noun: str, pattern: str, bits: Bits) -> Scheme | float:
    if isinstance(bits, str | Scheme):
        return Scheme.parse(bits)
    if not (isinstance(bits, int | float) and 0 < bits < math.inf):
        raise InputError(f"The {noun} {pattern!r} is {bits} bits; it must be above zero.")
    return bits


def _bits_of(bits: Scheme | float, row: Row) -> Fraction:
    """Bits per weight that a layer has in a scheme, the table's own if it is there."""
    if not isinstance(bits, Scheme):
        return Fraction(str(bits))
    known = {cost.scheme: cost.bytes for cost in row.costs}
    return _bits(known.get(bits, scheme_bytes(row.layer.shape, bits)), row.layer)


def _bits(size: int, layer: Layer) -> Fraction:
    return Fraction(8 * size, layer.parameters)


def _menu(row: Row) -> str:
    return ", ".join(
        f"{cost.scheme} ({float(_bits(cost.bytes, row.layer)):.4g})"
        for cost in sorted(row.costs, key=lambda cost: cost.bytes)
    )

"""What the caller fixes beforehand: layers by wildcard, and the schemes that they may take."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from bitplan.allocator.rules import Rule
from bitplan.allocator.wildcards import closest, last_match
from bitplan.errors import InputError, SchemeError
from bitplan.schema import LEFT_OUT, CostTable, Row, Scheme

Pins: TypeAlias = Mapping[str, str | Scheme | Sequence[str | Scheme]]
"""Layer name or wildcard -> a scheme, or several."""


def pin_rules(table: CostTable, pins: Pins) -> list[Rule]:
    """A rule for every pin that decides a layer.

    Where several pins match a layer, the last one counts: put the general before the special.

    Raises:
        InputError: a pin that matches no layer.
        SchemeError: a pin that leaves a layer without a scheme, or names one twice, or leaves out a
            part of a sublayer.
    """
    rows = {row.layer.name: row for row in table.rows}
    rules: list[Rule] = []
    for pattern, layers in last_match("pin", pins, rows).items():
        names = _names(pattern, pins[pattern])
        _check_known(pattern, names, table)
        allowed = {layer: _legal(rows[layer], names) for layer in layers}
        if allowed:
            rules.append(Rule(name=f"the pin {pattern!r} = {'|'.join(names)}", allowed=allowed))
    _check_whole(table, rules)
    return rules


def _check_whole(table: CostTable, rules: Sequence[Rule]) -> None:
    """Refuse pins that leave out some layers of a sublayer and say nothing of the others."""
    only = frozenset([LEFT_OUT])
    gone = {name: rule for rule in rules for name, names in rule.allowed.items() if names == only}
    for sublayer in table.sublayers:
        kept = [name for name in sublayer.layers if name not in gone]
        if kept and len(kept) < len(sublayer.layers):
            first = next(name for name in sublayer.layers if name in gone)
            raise SchemeError(
                f"T{gone[first].name[1:]} leaves out {first}, but {LEFT_OUT} is for whole "
                f"sublayers, and {', '.join(kept)} would stay. Pin all of {sublayer.name} to "
                f"{LEFT_OUT}, as '{sublayer.name}.*', or none of it."
            )


def check_pins(pins: object) -> None:
    """Raise `InputError` for pins that are no mapping, `SchemeError` for what names no schemes."""
    if not isinstance(pins, Mapping):
        raise InputError(f'The pins are {pins!r}. Give a dictionary, as {{"*.v_proj": "int4g64"}}.')
    for pattern, schemes in pins.items():
        several = [schemes] if isinstance(schemes, str | Scheme) else schemes
        is_list = isinstance(several, Iterable)
        if not (is_list and all(isinstance(one, str | Scheme) for one in several)):
            raise SchemeError(
                f"The pin {pattern!r} is {schemes!r}. Give a scheme's name, or several in a list."
            )


def _names(pattern: str, schemes: str | Scheme | Sequence[str | Scheme]) -> tuple[str, ...]:
    several = [schemes] if isinstance(schemes, str | Scheme) else schemes
    names = [str(Scheme.parse(scheme)) for scheme in several]
    for name in names:
        if names.count(name) > 1:
            raise SchemeError(f"The pin {pattern!r} names {name} twice. Name it once.")
    return tuple(names)


def _check_known(pattern: str, names: tuple[str, ...], table: CostTable) -> None:
    """Refuse a scheme that the table has for no layer at all: most likely a slip."""
    known = {str(cost.scheme) for row in table.rows for cost in row.costs}
    for name in names:
        if name not in known:
            raise SchemeError(
                f"The pin {pattern!r} asks for {name}, which the cost table does not have. "
                f"{closest(name, known)} Or measure again with {name} among the schemes."
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

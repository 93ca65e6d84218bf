"""A cost table under rules, as arrays: what Problem is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.limit import Limit
from bitplan.allocator.rules import Amounts, Cap, Rule, groups_of, smallest_conflict
from bitplan.errors import ConflictError, TableError
from bitplan.schema import CostTable, Row


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows and schemes in alphabetical order. A row is a layer, or several that share a scheme."""

    layers: tuple[tuple[str, ...], ...]  # [rows]
    schemes: tuple[str, ...]  # [schemes]
    loss: np.ndarray  # [rows, schemes] float64, nats per token; inf where not legal
    bytes: np.ndarray  # [rows, schemes] int64; 0 where not legal
    legal: np.ndarray  # [rows, schemes] bool
    parameters: np.ndarray  # [rows] int64
    limits: tuple[Limit, ...]

    @classmethod
    def of(cls, table: CostTable, rules: Sequence[Rule]) -> "Rows":
        """Raises `ConflictError` where the rules leave a row no scheme, with those that do."""
        rows = {row.layer.name: row for row in table.rows}
        groups = groups_of(tuple(rows), rules)
        names = sorted({str(cost.scheme) for row in table.rows for cost in row.costs})
        column = {name: index for index, name in enumerate(names)}
        shape = len(groups), len(names)
        loss, size = np.zeros(shape), np.zeros(shape, np.int64)
        legal = np.zeros(shape, bool)
        for index, group in enumerate(groups):
            common = _common(group, rows, rules)
            if not common:
                raise _empty_row(group, rows, rules)
            legal[index, [column[name] for name in common]] = True
            for layer in group:
                for cost in rows[layer].costs:
                    at = index, column[str(cost.scheme)]
                    loss[at] += cost.loss
                    size[at] += cost.bytes
        return cls(
            layers=tuple(groups),
            schemes=tuple(names),
            loss=np.where(legal, loss, np.inf),
            bytes=np.where(legal, size, 0),
            legal=legal,
            parameters=np.array(
                [sum(rows[name].layer.parameters for name in group) for group in groups]
            ),
            limits=tuple(
                _limit(rule.name, rule.cap, groups, names, legal)
                for rule in rules
                if rule.cap is not None
            ),
        )


def _limit(
    name: str,
    cap: Cap,
    groups: Sequence[Sequence[str]],
    names: Sequence[str],
    legal: np.ndarray,
) -> Limit:
    amounts = np.where(legal, _added_up(cap.amounts, groups, names), 0)
    # More than all can take is no number that a solver should compute with.
    most = min(cap.most, int(amounts.max(axis=1).sum()))
    return Limit(name=name, amounts=amounts, most=most, unit=cap.unit)


def _added_up(
    amounts: Amounts, groups: Sequence[Sequence[str]], names: Sequence[str]
) -> np.ndarray:
    """Steps [rows, schemes] of groups of layers."""
    return np.array(
        [
            [sum(amounts[layer].get(name, 0) for layer in group) for name in names]
            for group in groups
        ],
        np.int64,
    )


def _common(group: Sequence[str], rows: dict[str, Row], rules: Sequence[Rule]) -> frozenset[str]:
    """The schemes that all layers of a group may take."""
    schemes = [frozenset(str(cost.scheme) for cost in rows[name].costs) for name in group]
    schemes += [rule.allowed[name] for rule in rules for name in group if name in rule.allowed]
    return frozenset.intersection(*schemes)


def _empty_row(group: Sequence[str], rows: dict[str, Row], rules: Sequence[Rule]) -> TableError:
    """What to raise where a group has no scheme: with a smallest set of rules that leaves none."""

    def can_hold(some: Sequence[Rule]) -> bool:
        return all(_common(part, rows, some) for part in groups_of(group, some))

    touching = [
        rule
        for rule in rules
        if rule.allowed.keys() & set(group) or any(set(j) & set(group) for j in rule.joined)
    ]
    conflict = smallest_conflict(_within(group, touching), can_hold)
    names = [rule.name for rule in conflict]
    layers = next(g for g in groups_of(group, conflict) if not _common(g, rows, conflict))
    has = "; ".join(
        f"{name} in {', '.join(sorted(str(cost.scheme) for cost in rows[name].costs))}"
        for name in layers[:2]
    )
    which = f"The layer {layers[0]} has no scheme"
    if len(layers) > 1:
        which = f"The layers {', '.join(layers)} have no scheme in common"
    return ConflictError(
        f"{which} under {', '.join(names)}. The cost table has {has}. Loosen one of these, or "
        "measure with other schemes.",
        conflict=names,
    )


def _within(group: Sequence[str], rules: Sequence[Rule]) -> list[Rule]:
    """The rules, their joins cut down to a group."""
    inside = set(group)
    cut = []
    for rule in rules:
        joined = [tuple(name for name in names if name in inside) for names in rule.joined]
        cut.append(
            Rule(name=rule.name, allowed=rule.allowed, joined=[names for names in joined if names])
        )
    return cut

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
        """Raises `ConflictError` where the rules leave a row no scheme, with those that do.

        And `TableError` where the table itself has none for a layer.
        """
        rows = {row.layer.name: row for row in table.rows}
        _check_costs(table)
        groups = groups_of(tuple(rows), rules)
        names = sorted({str(cost.scheme) for row in table.rows for cost in row.costs})
        column = {name: index for index, name in enumerate(names)}
        shape = len(groups), len(names)
        loss, size = np.zeros(shape), np.zeros(shape, np.int64)
        legal = np.zeros(shape, bool)
        for index, group in enumerate(groups):
            common = _common(group, rows, rules)
            if not common:
                raise _conflict(rows, rules)
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


def _check_costs(table: CostTable) -> None:
    for row in table.rows:
        if not row.costs:
            raise TableError(
                f"The layer {row.layer.name} has no legal scheme in the cost table. Measure it in "
                "some, or leave it out."
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


def _conflict(rows: dict[str, Row], rules: Sequence[Rule]) -> ConflictError:
    """What to raise where a group has no scheme: with a smallest set of rules that leaves none."""
    names = tuple(rows)

    def empty(some: Sequence[Rule]) -> tuple[str, ...] | None:
        return next((g for g in groups_of(names, some) if not _common(g, rows, some)), None)

    conflict = smallest_conflict(rules, lambda some: empty(some) is None)
    layers = empty(conflict)
    assert layers is not None
    words = [rule.name for rule in conflict]
    has = "; ".join(
        f"{name} in {', '.join(sorted(str(cost.scheme) for cost in rows[name].costs))}"
        for name in layers[:2]
    )
    which = f"The layer {layers[0]} has no scheme"
    if len(layers) > 1:
        which = f"The layers {', '.join(layers)} have no scheme in common"
    return ConflictError(
        f"{which} under {', '.join(words)}. The cost table has {has}. Loosen one of these, or "
        "measure with other schemes.",
        conflict=words,
    )

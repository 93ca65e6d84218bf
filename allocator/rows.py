"""A cost table under rules, as arrays: what Problem is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bitplan.allocator.limit import Limit
from bitplan.allocator.rules import Amounts, Cap, Rule, groups_of, smallest_conflict
from bitplan.allocator.sublayers import Mix, check_columns, mixes, settle
from bitplan.errors import ConflictError, TableError
from bitplan.schema import LEFT_OUT, CostTable, Row


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows and schemes in alphabetical order. A row is a layer, or several that share a scheme.

    Or a sublayer that may be left out: its mixes of schemes have the columns after all schemes.
    """

    layers: tuple[tuple[str, ...], ...]  # [rows]
    schemes: tuple[str, ...]  # [schemes]
    loss: np.ndarray  # [rows, columns] float64, nats per token; inf where not legal
    bytes: np.ndarray  # [rows, columns] int64; 0 where not legal
    legal: np.ndarray  # [rows, columns] bool
    parameters: np.ndarray  # [rows] int64
    limits: tuple[Limit, ...]
    mixes: tuple[tuple[Mix, ...], ...] = ()  # [rows] of each column after those of the schemes

    @classmethod
    def of(cls, table: CostTable, rules: Sequence[Rule]) -> "Rows":
        """Raises `ConflictError` where the rules leave a row no scheme, with those that do.

        And `TableError` where the table itself has none for a layer.
        """
        rows = {row.layer.name: row for row in table.rows}
        _check_costs(table)
        groups, menus, undecided = _menus(table, rows, rules)
        names = sorted({str(cost.scheme) for row in table.rows for cost in row.costs})
        column = {name: index for index, name in enumerate(names)}
        shape = len(groups), len(names)
        loss, size = np.zeros(shape), np.zeros(shape, np.int64)
        legal = np.zeros(shape, bool)
        if not all(menus):
            raise _conflict(table, rows, rules)
        for index, (group, menu) in enumerate(zip(groups, menus, strict=True)):
            legal[index, [column[name] for name in menu]] = True
            for layer in group:
                for cost in rows[layer].costs:
                    at = index, column[str(cost.scheme)]
                    loss[at] += cost.loss
                    size[at] += cost.bytes
        found = cls(
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
        return _joined(found, undecided) if undecided else found


def _joined(rows: Rows, undecided: Sequence[Sequence[int]]) -> Rows:
    """Rows of one sublayer each made one, in the place of the first."""
    parts = {part[0]: part for part in undecided}
    others = {row for part in undecided for row in part[1:]}
    every = [parts.get(row, [row]) for row in range(len(rows.layers)) if row not in others]
    stays = rows.legal & (np.array(rows.schemes) != LEFT_OUT)
    costs = np.array([rows.bytes, rows.loss, *(limit.amounts for limit in rows.limits)])
    # What one scheme for all gives has a column already.
    picked = [
        mix[(mix != mix[:, :1]).any(axis=1)]
        for part in every
        for mix in [mixes(costs[:, part], stays[part]) if len(part) > 1 else np.empty((0, 1), int)]
    ]
    check_columns(len(rows.schemes) + max(map(len, picked)))
    added = partial(_added, every, picked)
    legal = added(rows.legal.astype(int)) == np.array([[len(part)] for part in every])
    names = [sorted((n, row) for row in part for n in rows.layers[row]) for part in every]
    return replace(
        rows,
        layers=tuple(tuple(name for name, _ in own) for own in names),
        loss=np.where(legal, added(rows.loss), np.inf),
        bytes=np.where(legal, added(rows.bytes), 0),
        legal=legal,
        parameters=np.array([rows.parameters[part].sum() for part in every]),
        limits=tuple(
            replace(limit, amounts=np.where(legal, added(limit.amounts), 0))
            for limit in rows.limits
        ),
        mixes=tuple(
            tuple(tuple(mix[part.index(row)] for _, row in own) for mix in some.tolist())
            for part, own, some in zip(every, names, picked, strict=True)
        ),
    )


def _added(
    parts: Sequence[Sequence[int]], picked: Sequence[np.ndarray], values: np.ndarray
) -> np.ndarray:
    """Of each part the sums of its rows' values [rows, schemes]: of each scheme, of each mix."""
    schemes = values.shape[1]
    wide = np.zeros((len(parts), schemes + max(map(len, picked))), values.dtype)
    for index, (part, mix) in enumerate(zip(parts, picked, strict=True)):
        wide[index, :schemes] = values[part].sum(axis=0)
        wide[index, schemes : schemes + len(mix)] = values[part, mix].sum(axis=1)
    return wide


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


def _menus(
    table: CostTable, rows: dict[str, Row], rules: Sequence[Rule]
) -> tuple[list[tuple[str, ...]], list[frozenset[str]], list[list[int]]]:
    """The groups, the schemes of each, and lists of groups that are to be one row."""
    groups = groups_of(tuple(rows), rules)
    common = [_common(group, rows, rules) for group in groups]
    told = [rule.left_out for rule in rules if rule.left_out is not None]
    menus, undecided = settle(groups, common, table.sublayers, told[-1] if told else None)
    return groups, menus, undecided


def _common(group: Sequence[str], rows: dict[str, Row], rules: Sequence[Rule]) -> frozenset[str]:
    """The schemes that all layers of a group may take."""
    schemes = [frozenset(str(cost.scheme) for cost in rows[name].costs) for name in group]
    schemes += [rule.allowed[name] for rule in rules for name in group if name in rule.allowed]
    return frozenset.intersection(*schemes)


def _conflict(table: CostTable, rows: dict[str, Row], rules: Sequence[Rule]) -> ConflictError:
    """What to raise where a group has no scheme: with a smallest set of rules that leaves none."""

    def empty(some: Sequence[Rule]) -> tuple[str, ...] | None:
        groups, menus, _ = _menus(table, rows, some)
        return next((g for g, menu in zip(groups, menus, strict=True) if not menu), None)

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

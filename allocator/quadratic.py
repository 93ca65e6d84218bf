"""The exact solver for rows that interact: CP-SAT on the linearised problem.

A product of two schemes' choices becomes a variable of its own. That of item i and item j of
another row is y_ij, and as one scheme of each row is taken, sum over j of y_ij = x_i: the products
are then whole numbers by themselves, and the linear relaxation is tight. Source: Adams and Sherali
1986, "A tight linearization and an algorithm for zero-one quadratic programming problems".
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.descent import descent
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.solver import solver
from bitplan.errors import InternalError

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

NAME = "quadratic"
OBJECTIVE_BITS = 50
"""Losses are scaled so that the worst total has as many bits: CP-SAT computes in integers, and its
linear relaxation in float64."""
RELATIVE_PRECISION = 1e-9
"""A proven optimum is optimal to this, relative to its loss, else its bound says to what."""
DESCENT_SHARE = 0.2
"""Of the time, at most, for the choice that the search begins with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Terms:
    """The objective: items, and products of items of two rows that interact."""

    row: np.ndarray  # [items]
    scheme: np.ndarray  # [items]
    one: np.ndarray  # [products] int, an item of the first row
    other: np.ndarray  # [products] int, an item of the second
    block: np.ndarray  # [products] int, equal where both rows are
    loss: np.ndarray  # [items + products] nats per token

    @classmethod
    def of(cls, problem: Problem) -> _Terms:
        """All legal items, and every product of two rows of which any interact."""
        row, scheme = np.nonzero(problem.legal)
        loss = problem.loss[row, scheme]
        if problem.interactions is None or problem.interactions.nnz == 0:
            none = np.zeros(0, int)
            return cls(row=row, scheme=scheme, one=none, other=none, block=none, loss=loss)
        rows, schemes = problem.loss.shape
        index = np.full(problem.loss.size, -1)
        index[row * schemes + scheme] = np.arange(row.size)
        first, second = problem.interactions.nonzero()
        block = np.unique(first.astype(np.int64) // schemes * rows + second // schemes)
        block = block[block // rows < block % rows]
        grid = np.arange(schemes)
        item = (block // rows * schemes)[:, None, None] + grid[:, None]
        beside = (block % rows * schemes)[:, None, None] + grid
        item, beside = (each.ravel() for each in np.broadcast_arrays(item, beside))
        legal = (index[item] >= 0) & (index[beside] >= 0)
        item, beside = item[legal], beside[legal]
        values = problem.interactions[item, beside]
        if not isinstance(values, np.ndarray):  # scipy's answer where no index is given
            values = values.toarray()
        return cls(
            row=row,
            scheme=scheme,
            one=index[item],
            other=index[beside],
            block=np.repeat(np.arange(block.size), schemes * schemes)[legal],
            loss=np.append(loss, values),
        )

    @property
    def blocks(self) -> int:
        """How many pairs of rows interact."""
        return int(self.block.max(initial=-1)) + 1

    def taken(self, choice: np.ndarray) -> np.ndarray:
        """Whether each item and each product [items + products] is in a choice [rows]."""
        items = choice[self.row] == self.scheme
        return np.append(items, items[self.one] & items[self.other])


@solver(NAME, exact=True, interactions=True, limits=True)
def quadratic(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """Solve to proven optimality, or until the time limit, with the bound reached by then.

    For some tens of rows that all interact, or more of which few do. All limits are honoured: each
    is a row of the program. Source: as in the head of this module. Raises `ConflictError` and
    `TimeLimitError` as `cp_sat` does.
    """
    end = time.monotonic() + time_limit_s
    first = _first(problem, hull, DESCENT_SHARE * time_limit_s, start)
    left_s = end - time.monotonic()
    if left_s <= 0:
        return Solution.of(problem, first.choice, first.lower_bound, Status.TIME_LIMIT, NAME)
    choice, bound, proven = _search(problem, first.choice, left_s)
    choice = min(choice, first.choice, key=problem.loss_of)
    loss = problem.loss_of(choice)
    return Solution.of(
        problem,
        choice,
        loss if proven else max(first.lower_bound, min(bound, loss)),
        Status.OPTIMAL if proven else Status.TIME_LIMIT,
        NAME,
    )


def _first(problem: Problem, hull: Hull, time_limit_s: float, start: np.ndarray | None) -> Solution:
    """What the search begins with: by descent, which knows bytes alone, or without interactions."""
    if not problem.is_limited:
        return descent(problem, hull, time_limit_s=time_limit_s, start=start)
    choice = cp_sat(problem.alone(), hull, time_limit_s=time_limit_s, start=start).choice
    bound = lower_bound(problem, hull)
    return Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)


def _search(
    problem: Problem, choice: np.ndarray, time_limit_s: float
) -> tuple[np.ndarray, float, bool]:
    """The best choice [rows] found, a bound in nats per token, and whether it is proven."""
    # Imported here because it takes as long as all the rest of this package.
    from ortools.sat.python import cp_model

    terms = _Terms.of(problem)
    unit = 2.0 ** (math.ceil(math.log2(np.abs(terms.loss).sum() or 1.0)) - OBJECTIVE_BITS)
    model = cp_model.CpModel()
    items = [model.new_bool_var("") for _ in terms.row]
    products = [model.new_bool_var("") for _ in terms.one]
    taken = [*items, *products]
    _couple(model, items, products, terms)
    for amounts, most in problem.resources:
        extra = amounts[terms.row, terms.scheme].tolist()
        model.add(cp_model.LinearExpr.weighted_sum(items, extra) <= most)
    if problem.most_schemes is not None:
        used = [model.new_bool_var("") for _ in range(problem.loss.shape[1])]
        for item, scheme in zip(items, terms.scheme.tolist(), strict=True):
            model.add_implication(item, used[scheme])
        model.add(sum(used) <= problem.most_schemes)
    loss = np.rint(terms.loss / unit).astype(np.int64)
    model.minimize(cp_model.LinearExpr.weighted_sum(taken, loss.tolist()))
    for variable, hint in zip(taken, terms.taken(choice).tolist(), strict=True):
        model.add_hint(variable, hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.linearization_level = 2
    solver.parameters.max_time_in_seconds = time_limit_s
    # Else an interrupt would end the search and pass for its result.
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        raise InternalError(
            f"CP-SAT calls a feasible problem {solver.status_name(status)}. Solve with "
            'solver="descent", and please report this table.'
        )
    if status != cp_model.UNKNOWN:
        chosen = np.array([solver.value(item) for item in items], bool)
        choice = terms.scheme[chosen]
    # Of each row and of each two that interact one term counts, each rounded by half a unit.
    error = (len(choice) + terms.blocks) * unit / 2
    bound = solver.best_objective_bound * unit - error
    proven = status == cp_model.OPTIMAL and 2 * error <= RELATIVE_PRECISION * abs(
        problem.loss_of(choice)
    )
    return choice, bound, proven


def _couple(
    model: cp_model.CpModel,
    items: list[cp_model.IntVar],
    products: list[cp_model.IntVar],
    terms: _Terms,
) -> None:
    """One item of each row; of the products of an item with another row one, if it is taken."""
    for row in np.unique(terms.row):
        model.add_exactly_one([items[item] for item in np.flatnonzero(terms.row == row)])
    for side in (terms.one, terms.other):
        sums: dict[tuple[int, int], list[cp_model.IntVar]] = {}
        for product, key in zip(
            products, zip(terms.block.tolist(), side.tolist(), strict=True), strict=True
        ):
            sums.setdefault(key, []).append(product)
        for (_, item), group in sums.items():
            model.add(sum(group) == items[item])

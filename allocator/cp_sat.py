"""The exact solver: a multiple-choice knapsack in OR-tools CP-SAT, cut down to its core first.

The relaxation and its local search give a bound and a good choice; a scheme whose reduced cost
exceeds the distance between the two is in no better choice and is left out, which leaves a small
fraction (the core) to search. One worker and a fixed seed: an answer that is proven optimal is the
same on every run. One that the time limit cut short may not be.
"""

import math
import time
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import relax_and_improve
from bitplan.allocator.problem import ROUNDING, Problem, Solution, Status
from bitplan.allocator.solver import solver
from bitplan.errors import InternalError

NAME = "cp_sat"
OBJECTIVE_BITS = 50
"""Losses are scaled so that the worst total has as many bits: CP-SAT computes in integers, and its
linear relaxation in float64."""
RELATIVE_PRECISION = 1e-9
"""A proven optimum is optimal to this, relative to its loss; where the integers are too coarse for
that, the solution's bound says so."""
_LARGE = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, eq=False)
class Core:
    """What is left to decide. An item is one scheme of one class; a class is of equal rows.

    Rows of no class are decided already. Equal rows are counted, not told apart: else a search
    would try all their permutations.
    """

    classes: tuple[np.ndarray, ...]  # rows of each class
    row_class: np.ndarray  # [items] int, rising
    scheme: np.ndarray  # [items] int
    loss: np.ndarray  # [items] int64, in units, above the class's least
    bytes: np.ndarray  # [items] int64, above the class's smallest, over their common divisor
    room: int  # for these bytes
    unit: float  # nats per token
    base_loss: float  # nats per token; what any choice loses at least
    rounding: float  # nats per token; how far a total of rounded losses can be from the true one


@solver(NAME, exact=True)
def cp_sat(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """Solve to proven optimality, or until the time limit, with the bound reached by then."""
    began = time.monotonic()
    relaxation, first = relax_and_improve(problem, hull, start=start)
    if first.gap == 0:
        return Solution.of(problem, first.choice, first.lower_bound, first.status, NAME)
    core = _core(problem, relaxation.core(first.loss), first)
    left_s = time_limit_s - (time.monotonic() - began)
    if left_s <= 0:
        return Solution.of(problem, first.choice, first.lower_bound, Status.TIME_LIMIT, NAME)
    choice, bound, proven = _search(core, first.choice, left_s)
    # Totals that are equal in units can differ by less than one: the first may be the better.
    choice = min(choice, first.choice, key=problem.loss_of)
    loss = problem.loss_of(choice)
    if proven and core.rounding <= RELATIVE_PRECISION * loss:
        return Solution.of(problem, choice, loss, Status.OPTIMAL, NAME)
    bound = max(first.lower_bound, min(loss, bound))
    status = Status.WITHIN_GAP if proven else Status.TIME_LIMIT
    return Solution.of(problem, choice, bound, status, NAME)


def _core(problem: Problem, keep: np.ndarray, first: Solution) -> Core:
    """The items [rows, schemes] worth keeping, in integers, of the rows that have a choice."""
    least = problem.loss.min(axis=1)
    decided = math.fsum(least.tolist())
    # One row alone must not lose more than all of a better choice.
    keep = keep & (problem.loss - least[:, None] <= (first.loss - decided) * (1 + ROUNDING))
    keep[np.arange(len(keep)), first.choice] = True
    rows = np.flatnonzero(keep.sum(axis=1) > 1)
    loss, size = problem.loss[rows], problem.bytes[rows]
    keep = keep[rows] & ~_dominated(loss, size, keep[rows])
    loss, size = np.where(keep, loss, np.inf), np.where(keep, size, _LARGE)
    least, smallest = loss.min(axis=1), size.min(axis=1)
    others = np.delete(np.arange(len(first.choice)), rows)
    other_choice = first.choice[others]
    room = problem.budget_bytes - int(problem.bytes[others, other_choice].sum() + smallest.sum())
    base = [*problem.loss[others, other_choice].tolist(), *least.tolist()]

    one, members = _classes(loss, size)
    row_class, scheme = np.nonzero(keep[one])
    above = (loss[one] - least[one, None])[row_class, scheme]
    extra = (size[one] - smallest[one, None])[row_class, scheme]
    unit = _unit(above, row_class, np.array([len(each) for each in members]))
    divisor = max(int(np.gcd.reduce(extra)), 1)
    return Core(
        classes=tuple(rows[each] for each in members),
        row_class=row_class,
        scheme=scheme,
        loss=np.rint(above / unit).astype(np.int64),
        bytes=extra // divisor,
        room=room // divisor,
        unit=unit,
        base_loss=math.fsum(base),
        rounding=len(rows) * unit / 2,
    )


def _classes(loss: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """One row of each class, in order of appearance, and the indices of all its rows."""
    members: dict[bytes, list[int]] = {}
    for index, (row_loss, row_size) in enumerate(zip(loss, size, strict=True)):
        members.setdefault(row_loss.tobytes() + row_size.tobytes(), []).append(index)
    every = [np.array(indices) for indices in members.values()]
    return np.array([indices[0] for indices in every], int), every


def _dominated(loss: np.ndarray, size: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Whether another kept item of the row is no worse in both and comes first among equals."""
    result = np.zeros_like(keep)
    for column in range(loss.shape[1]):
        other_loss, other_size = loss[:, column, None], size[:, column, None]
        no_worse = (other_loss <= loss) & (other_size <= size)
        better = (other_loss < loss) | (other_size < size) | (column < np.arange(loss.shape[1]))
        result |= keep[:, column, None] & no_worse & better
    return result


def _unit(above: np.ndarray, row_class: np.ndarray, count: np.ndarray) -> float:
    """The power of two in which the largest total that there could be has `OBJECTIVE_BITS` bits."""
    largest = np.zeros(len(count))
    np.maximum.at(largest, row_class, above)
    total = float((largest * count).sum())
    return 2.0 ** (math.ceil(math.log2(total)) - OBJECTIVE_BITS) if total > 0 else 1.0


def _search(core: Core, choice: np.ndarray, time_limit_s: float) -> tuple[np.ndarray, float, bool]:
    """The best choice [rows] found, a bound in nats per token, and whether it is proven."""
    # Imported here because it takes as long as all the rest of this package.
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    counts = [len(core.classes[index]) for index in core.row_class]
    taken = [model.new_int_var(0, count, "") for count in counts]
    for index, rows in enumerate(core.classes):
        begin, end = np.searchsorted(core.row_class, [index, index + 1])
        model.add(cp_model.LinearExpr.sum(taken[begin:end]) == len(rows))
    model.add(cp_model.LinearExpr.weighted_sum(taken, core.bytes.tolist()) <= core.room)
    model.minimize(cp_model.LinearExpr.weighted_sum(taken, core.loss.tolist()))
    for item, index, scheme in zip(taken, core.row_class, core.scheme, strict=True):
        model.add_hint(item, int((choice[core.classes[index]] == scheme).sum()))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = time_limit_s
    # Else an interrupt would end the search and pass for its result.
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        raise InternalError(
            f"CP-SAT calls a feasible problem {solver.status_name(status)}. Solve with "
            'solver="lagrangian", and please report this table.'
        )
    if status != cp_model.UNKNOWN:
        choice = _filled_in(core, choice, np.array([solver.value(item) for item in taken]))
    bound = core.base_loss + solver.best_objective_bound * core.unit - core.rounding
    return choice, bound, status == cp_model.OPTIMAL


def _filled_in(core: Core, choice: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The choice [rows] with the rows of each class set by how often [items] a scheme is taken."""
    choice = choice.copy()
    for index, rows in enumerate(core.classes):
        items = core.row_class == index
        choice[rows] = np.repeat(core.scheme[items], taken[items])
    return choice

"""What a relaxation leaves to decide, in whole numbers, and the search in it by OR-tools CP-SAT."""

import math
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.problem import ROUNDING, Problem, Solution, Status
from bitplan.errors import InternalError

NAME = "cp_sat"
RELATIVE_PRECISION = 1e-9
"""A proven optimum is optimal to this, relative to its loss; where the integers are too coarse for
that, the solution's bound says so."""
OBJECTIVE_BITS = 50
"""Losses are scaled so that the worst total has as many bits: CP-SAT computes in integers, and its
linear relaxation in float64."""
_LARGE = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, eq=False)
class Core:
    """What is left to decide. An item is one scheme of one class; a class is of equal rows.

    Rows of no class are decided already. Equal rows are counted, not told apart: else a search
    would try all their permutations. Sizes are bytes first, then the amounts of the limits.
    """

    choice: np.ndarray  # [rows] int, from the core; it need not fit
    classes: tuple[np.ndarray, ...]  # rows of each class
    row_class: np.ndarray  # [items] int, rising
    scheme: np.ndarray  # [items] int
    loss: np.ndarray  # [items] int64, in units, above the class's least
    sizes: np.ndarray  # [sizes, items] int64, above the class's smallest, over a common divisor
    rooms: tuple[int, ...]  # for these sizes
    unit: float  # nats per token
    base_loss: float  # nats per token; what any choice loses at least
    rounding: float  # nats per token; how far a total of rounded losses can be from the true one

    @classmethod
    def of(cls, problem: Problem, keep: np.ndarray, choice: np.ndarray, upper: float) -> "Core":
        """The items of `keep` [rows, schemes] that a choice of less loss than `upper` can contain.

        `choice` [rows] stays in it, whether it fits or not.
        """
        least = problem.loss.min(axis=1)
        decided = math.fsum(least.tolist())
        # One row alone must not lose more than all of a better choice.
        keep = keep & (problem.loss - least[:, None] <= (upper - decided) * (1 + ROUNDING))
        keep[np.arange(len(keep)), choice] = True
        rows = np.flatnonzero(keep.sum(axis=1) > 1)
        every = np.array([amounts for amounts, _ in problem.resources])
        loss, sizes = problem.loss[rows], every[:, rows]
        keep = keep[rows] & ~_dominated(np.array([loss, *sizes]), keep[rows])
        loss, sizes = np.where(keep, loss, np.inf), np.where(keep, sizes, _LARGE)
        least, smallest = loss.min(axis=1), sizes.min(axis=2)
        others = np.delete(np.arange(len(choice)), rows)
        taken = every[:, others, choice[others]].sum(axis=1) + smallest.sum(axis=1)
        base = [*problem.loss[others, choice[others]].tolist(), *least.tolist()]

        one, members = _classes(loss, sizes)
        row_class, scheme = np.nonzero(keep[one])
        above = (loss[one] - least[one, None])[row_class, scheme]
        extra = (sizes[:, one] - smallest[:, one, None])[:, row_class, scheme]
        divisors = [max(int(np.gcd.reduce(each)), 1) for each in extra]
        unit = _unit(above, row_class, np.array([len(each) for each in members]))
        return cls(
            choice=choice,
            classes=tuple(rows[each] for each in members),
            row_class=row_class,
            scheme=scheme,
            loss=np.rint(above / unit).astype(np.int64),
            sizes=extra // np.array(divisors)[:, None],
            rooms=tuple(
                (most - int(t)) // divisor
                for (_, most), t, divisor in zip(problem.resources, taken, divisors, strict=True)
            ),
            unit=unit,
            base_loss=math.fsum(base),
            rounding=len(rows) * unit / 2,
        )

    def is_precise(self, loss: float) -> bool:
        """Whether a proven optimum of this loss is one, to `RELATIVE_PRECISION`."""
        return self.rounding <= RELATIVE_PRECISION * loss

    def solution(
        self, problem: Problem, choice: np.ndarray, bound: float, *, proven: bool
    ) -> Solution:
        """The solution of a search in this core, which holds every choice of less loss."""
        loss = problem.loss_of(choice)
        if proven and self.is_precise(loss):
            return Solution.of(problem, choice, loss, Status.OPTIMAL, NAME)
        status = Status.WITHIN_GAP if proven else Status.TIME_LIMIT
        return Solution.of(problem, choice, min(loss, bound), status, NAME)


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a search of a core came to. Without a choice, and proven: the core holds none."""

    choice: np.ndarray | None  # [rows] int
    bound: float  # nats per token, on every choice of the core
    proven: bool


def search(core: Core, time_limit_s: float) -> Found:
    """The best choice of a core, or the best within a time."""
    # Imported here because it takes as long as all the rest of this package.
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    counts = [len(core.classes[index]) for index in core.row_class]
    taken = [model.new_int_var(0, count, "") for count in counts]
    for index, rows in enumerate(core.classes):
        begin, end = np.searchsorted(core.row_class, [index, index + 1])
        model.add(cp_model.LinearExpr.sum(taken[begin:end]) == len(rows))
    for size, room in zip(core.sizes, core.rooms, strict=True):
        model.add(cp_model.LinearExpr.weighted_sum(taken, size.tolist()) <= room)
    model.minimize(cp_model.LinearExpr.weighted_sum(taken, core.loss.tolist()))
    for item, index, scheme in zip(taken, core.row_class, core.scheme, strict=True):
        model.add_hint(item, int((core.choice[core.classes[index]] == scheme).sum()))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = time_limit_s
    # Else an interrupt would end the search and pass for its result.
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return Found(choice=None, bound=math.inf, proven=True)
    if status == cp_model.MODEL_INVALID:
        raise InternalError(
            'CP-SAT refuses the numbers of this problem. Solve with solver="lagrangian", and '
            "please report this table."
        )
    choice = None
    if status != cp_model.UNKNOWN:
        choice = _filled_in(core, np.array([solver.value(item) for item in taken]))
    bound = core.base_loss + solver.best_objective_bound * core.unit - core.rounding
    return Found(choice=choice, bound=bound, proven=status == cp_model.OPTIMAL)


def _classes(loss: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """One row of each class, in order of appearance, and the indices of all its rows."""
    members: dict[bytes, list[int]] = {}
    for index, row_loss in enumerate(loss):
        key = row_loss.tobytes() + sizes[:, index].tobytes()
        members.setdefault(key, []).append(index)
    every = [np.array(indices) for indices in members.values()]
    return np.array([indices[0] for indices in every], int), every


def _dominated(costs: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Whether another kept item of the row is no worse in all costs, and comes first among equals.

    `costs` is [costs, rows, schemes], `keep` [rows, schemes].
    """
    result = np.zeros_like(keep)
    for column in range(keep.shape[1]):
        other = costs[:, :, column, None]
        no_worse = (other <= costs).all(axis=0)
        better = (other < costs).any(axis=0) | (column < np.arange(keep.shape[1]))
        result |= keep[:, column, None] & no_worse & better
    return result


def _unit(above: np.ndarray, row_class: np.ndarray, count: np.ndarray) -> float:
    """The power of two in which the largest total that there could be has `OBJECTIVE_BITS` bits."""
    largest = np.zeros(len(count))
    np.maximum.at(largest, row_class, above)
    total = float((largest * count).sum())
    return 2.0 ** (math.ceil(math.log2(total)) - OBJECTIVE_BITS) if total > 0 else 1.0


def _filled_in(core: Core, taken: np.ndarray) -> np.ndarray:
    """The choice [rows] with the rows of each class set by how often [items] a scheme is taken."""
    choice = core.choice.copy()
    for index, rows in enumerate(core.classes):
        items = core.row_class == index
        choice[rows] = np.repeat(core.scheme[items], taken[items])
    return choice

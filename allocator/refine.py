"""Refinement on the real model: plans propose, measured KL disposes.

The losses of a table add up, those of a model do not, and where they do not is systematic: the
embedding, early blocks, or one kind of layer cost more, or less, together than the table says. So a
move here is not one layer's but a correction: the losses of a group of layers are scaled, the table
is solved again for the same budget, and bits move between the groups. A move stays when the
measured KL falls by more than the noise of the paired difference.

The first two moves are informed: each group in turn is given back its best scheme, and what that
takes off the measured KL, beside what the table says it should, is the group's factor. The rest
tries factors one group at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.constraints import Constraints
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import check_plan, plan_of
from bitplan.allocator.problem import Problem
from bitplan.progress import Progress, quiet
from bitplan.schema import CostTable, Layer, Plan, Scheme

Assignment = Mapping[str, Scheme]
MeasureKL = Callable[[Assignment], np.ndarray]
"""Scheme by layer -> KL of the whole model by sequence, nats per token."""

STEPS = (2.0, 1.4)
"""Factors by which a group's losses are raised or lowered, round by round."""

LARGEST_FACTOR = 8.0
"""An informed factor is at most this, and at least its inverse: the rest is noise."""

SOLVE_S = 5.0
"""Seconds for a table with limits to be solved again; without, it takes milliseconds."""

DEPTHS = 4
"""Groups of equal numbers of consecutive blocks."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """The best plan found, and what it took."""

    plan: Plan
    kl: float
    start_kl: float
    measured: int
    accepted: int


def refine(
    table: CostTable,
    plan: Plan,
    measure: MeasureKL,
    *,
    evaluations: int,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    progress: Progress = quiet,
) -> Refined:
    """Lower the measured KL of `plan` within its budget and the constraints.

    `measure` is asked at most `evaluations` times, always with the same tokens. Raises `PlanError`
    for a plan of another model, or one that does not keep to the constraints itself.
    """
    given = Constraints.of(constraints, pins=pins, fuse=fuse)
    problem = Problem.of(table, plan.budget_bytes, constraints=given)
    check_plan(table, problem, plan)
    search = _Search(problem, plan.schemes, measure, evaluations, progress)
    start_kl = float(search.kl.mean())
    kinds, depths = _groups(problem, [row.layer for row in table.rows])
    for groups in (kinds, depths):
        search.attempt(search.informed_factors(groups))
    for step in STEPS:
        for rows in (*kinds, *depths):
            for factor in (step, 1 / step):
                # A direction that helped is followed for as long as it helps.
                while search.attempt(_scaled(search.factors, rows, factor)):
                    pass
    progress("refine", evaluations, evaluations)
    kl = float(search.kl.mean())
    if search.accepted:
        plan = plan_of(
            table,
            search.assignment,
            budget_bytes=plan.budget_bytes,
            solver="refine",
            status=(
                f"Refined on the model: {search.accepted} of {search.tried} moves lowered the "
                f"measured KL, from {start_kl:.3g} to {kl:.3g} on the search tokens."
            ),
            lower_bound=plan.lower_bound,
        )
    return Refined(
        plan=plan,
        kl=kl,
        start_kl=start_kl,
        measured=search.measured,
        accepted=search.accepted,
    )


class _Search:
    """The corrections so far, the plan that they lead to, and its measured KL."""

    def __init__(
        self,
        problem: Problem,
        start: Assignment,
        measure: MeasureKL,
        evaluations: int,
        progress: Progress,
    ) -> None:
        self.problem, self.evaluations, self.progress = problem, evaluations, progress
        self.measure = measure
        self.factors = np.ones(len(problem.loss))
        self.assignment = dict(start)
        self.measured = self.tried = self.accepted = 0
        progress("refine", 0, evaluations)
        self.kl = self._measure(self.assignment)
        self.seen = {_key(self.assignment)}

    @property
    def exhausted(self) -> bool:
        """Whether the budget of evaluations is spent."""
        return self.measured >= self.evaluations

    def attempt(self, factors: np.ndarray) -> bool:
        """Solve with the losses scaled by `factors` [rows]; keep that if the measured KL falls."""
        if self.exhausted:
            return False
        assignment = self._solve(factors)
        key = _key(assignment)
        if key in self.seen:
            return False
        self.seen.add(key)
        self.tried += 1
        kl = self._measure(assignment)
        if not _falls(kl - self.kl):
            return False
        self.factors, self.assignment, self.kl = factors, assignment, kl
        self.accepted += 1
        return True

    def informed_factors(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Factors [rows] by which the table is wrong about each group, where the plan stands.

        Measured beside predicted: what falls off the KL when a group alone gets its best schemes.
        Only their ratios matter, so the groups together keep their predicted loss.
        """
        measured, predicted = np.zeros(len(groups)), np.zeros(len(groups))
        best = self.problem.assignment(
            np.where(self.problem.legal, self.problem.loss, np.inf).argmin(1)
        )
        for index, rows in enumerate(groups):
            if self.exhausted:
                return self.factors
            names = [name for row in rows for name in self.problem.layers[row]]
            spared = self.assignment | {name: best[name] for name in names}
            measured[index] = (self.kl - self._measure(spared)).mean()
            predicted[index] = self._loss(rows, self.assignment) - self._loss(rows, spared)
        known = predicted > 0
        total = measured[known].clip(0).sum()
        if not total > 0:  # nothing falls, or a measured KL is not a number
            return self.factors
        factors = self.factors.copy()
        for rows, m, p in zip(groups, measured, predicted, strict=True):
            if p > 0:
                ratio = (m / total) / (p / predicted[known].sum())
                factors[rows] *= np.clip(ratio, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
        return factors

    def _loss(self, rows: np.ndarray, assignment: Assignment) -> float:
        columns = [
            self.problem.schemes.index(assignment[self.problem.layers[row][0]]) for row in rows
        ]
        return float((self.problem.loss * self.factors[:, None])[rows, columns].sum())

    def _solve(self, factors: np.ndarray) -> dict[str, Scheme]:
        scaled = replace(self.problem, loss=self.problem.loss * factors[:, None])
        if not scaled.is_limited:
            return self.problem.assignment(lagrangian(scaled, Hull.of(scaled)).choice)
        start = self.problem.choice_of(self.assignment)
        solution = cp_sat(scaled, Hull.of(scaled), time_limit_s=SOLVE_S, start=start)
        return self.problem.assignment(solution.choice)

    def _measure(self, assignment: Assignment) -> np.ndarray:
        kl = self.measure(assignment)
        self.measured += 1
        self.progress("refine", self.measured, self.evaluations)
        return kl


def _scaled(factors: np.ndarray, rows: np.ndarray, factor: float) -> np.ndarray:
    factors = factors.copy()
    factors[rows] *= factor
    return factors


def _falls(difference: np.ndarray) -> bool:
    """Whether a paired difference [sequences] is below zero by more than its standard error."""
    error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return bool(difference.mean() < -error)


def _key(assignment: Assignment) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(scheme)) for name, scheme in assignment.items()))


def _groups(problem: Problem, layers: Sequence[Layer]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows by kind of layer, and rows by depth; those whose losses weigh most come first."""
    by_name = {layer.name: layer for layer in layers}
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    depth = {block: i * DEPTHS // len(blocks) for i, block in enumerate(blocks)}
    kinds: dict[str, list[int]] = {}
    depths: dict[str, list[int]] = {}
    for row, names in enumerate(problem.layers):
        layer = by_name[names[0]]
        kinds.setdefault(layer.name.rpartition(".")[2], []).append(row)
        if layer.block is not None:
            depths.setdefault(str(depth[layer.block]), []).append(row)
    loss = np.where(problem.legal, problem.loss, np.nan)
    spread = np.nanmax(loss, axis=1) - np.nanmin(loss, axis=1)

    def ordered(groups: Mapping[str, list[int]]) -> list[np.ndarray]:
        rows = [np.array(group) for group in groups.values() if len(group) < len(problem.layers)]
        return sorted(rows, key=lambda group: -spread[group].sum())

    return ordered(kinds), ordered(depths)

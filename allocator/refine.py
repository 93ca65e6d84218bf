"""Refinement on the real model: plans propose, measured KL disposes.

The losses of a table add up, those of a model do not, and where they do not is systematic: early
blocks, or one kind of layer, cost more together than apart. So a move here is not one layer's but a
correction: the losses of one group of layers are scaled, the table is solved again for the same
budget, and bits move between the groups. The move stays when the measured KL falls by more than
the noise of the paired difference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import Problem
from bitplan.progress import Progress, quiet
from bitplan.schema import CostTable, Layer, Plan, Scheme

Assignment = Mapping[str, Scheme]
MeasureKL = Callable[[Assignment], np.ndarray]
"""Scheme by layer -> KL of the whole model by sequence, nats per token."""

STEPS = (2.0, 1.4)
"""Factors by which a group's losses are raised or lowered, round by round."""

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
    progress: Progress = quiet,
) -> Refined:
    """Lower the measured KL of `plan` within its budget.

    `measure` is asked at most `evaluations` times, always with the same tokens.
    """
    problem = Problem.of(table, plan.budget_bytes, pins=pins, fuse=fuse)
    search = _Search(problem, plan.schemes, measure, evaluations, progress)
    start_kl = float(search.kl.mean())
    groups = _groups(problem, [row.layer for row in table.rows])
    for step in STEPS:
        for rows in groups:
            for factor in (step, 1 / step):
                # A direction that helped is followed for as long as it helps.
                while search.attempt(rows, factor):
                    pass
    kl = float(search.kl.mean())
    if search.accepted:
        plan = plan_of(
            table,
            search.assignment,
            budget_bytes=plan.budget_bytes,
            solver="refine",
            status=(
                f"Refined on the model: {search.accepted} of {search.measured} moves lowered the "
                f"measured KL, from {start_kl:.4f} to {kl:.4f} on the search tokens."
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
        self.measured = self.accepted = 0
        progress("refine", 0, evaluations)
        self.kl = self._measure(self.assignment)
        self.seen = {_key(self.assignment)}

    def attempt(self, rows: np.ndarray, factor: float) -> bool:
        """Scale the losses of some rows; keep that if the measured KL falls."""
        factors = self.factors.copy()
        factors[rows] *= factor
        assignment = self._solve(factors)
        key = _key(assignment)
        if key in self.seen or self.measured >= self.evaluations:
            return False
        self.seen.add(key)
        kl = self._measure(assignment)
        if not _falls(kl - self.kl):
            return False
        self.factors, self.assignment, self.kl = factors, assignment, kl
        self.accepted += 1
        return True

    def _solve(self, factors: np.ndarray) -> dict[str, Scheme]:
        scaled = replace(self.problem, loss=self.problem.loss * factors[:, None])
        return self.problem.assignment(lagrangian(scaled, Hull.of(scaled)).choice)

    def _measure(self, assignment: Assignment) -> np.ndarray:
        kl = self.measure(assignment)
        self.measured += 1
        self.progress("refine", self.measured, self.evaluations)
        return kl


def _falls(difference: np.ndarray) -> bool:
    """Whether a paired difference [sequences] is below zero by more than its standard error."""
    error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return bool(difference.mean() < -error)


def _key(assignment: Assignment) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(scheme)) for name, scheme in assignment.items()))


def _groups(problem: Problem, layers: Sequence[Layer]) -> list[np.ndarray]:
    """Rows by kind of layer and rows by depth; those whose losses weigh most come first."""
    by_name = {layer.name: layer for layer in layers}
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    depth = {block: i * DEPTHS // len(blocks) for i, block in enumerate(blocks)}
    groups: dict[str, list[int]] = {}
    for row, names in enumerate(problem.layers):
        layer = by_name[names[0]]
        groups.setdefault(layer.name.rpartition(".")[2], []).append(row)
        if layer.block is not None:
            groups.setdefault(f"depth {depth[layer.block]}", []).append(row)
    rows = [np.array(group) for group in groups.values() if len(group) < len(problem.layers)]
    lightest = np.where(problem.legal, problem.loss, np.inf).min(axis=1)
    spread = np.where(problem.legal, problem.loss, 0).max(axis=1) - lightest
    return sorted(rows, key=lambda group: -spread[group].sum())

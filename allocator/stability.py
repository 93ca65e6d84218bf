"""How much of a plan is the table's, and how much its noise: the table is drawn again and solved.

A table has the standard error of every loss, by the bootstrap over calibration sequences, but not
the sequences. A sample draws one normal number z for each row and moves all its losses by z
standard errors, none below zero. The schemes of a row move together because the same sequences
measured them through the same gradients: what a sample changes is how much the layer matters, far
more than how its schemes compare. Rows move independently, though they share their sequences too:
what moves all losses alike changes no plan. On SmolLM2-135M (32 sequences, 10 schemes) bootstrapped
losses correlate by 0.99 within a layer and by 0.36 between layers, and the shares are those of the
bootstrap over its sequences within a point in the mean (correlation over layers 0.95).
"""

from collections import Counter
from dataclasses import replace

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from bitplan.allocator.branch import branch
from bitplan.allocator.chosen import chosen
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.hull import Hull
from bitplan.allocator.pins import Pins
from bitplan.allocator.problem import ROUNDING, Problem
from bitplan.errors import InputError
from bitplan.schema import CostTable, Plan, Record, Scheme


class LayerStability(Record):
    """How often the samples give one layer the scheme that it has in the plan."""

    layer: str
    scheme: Scheme = Field(description="of the plan")
    kept: float = Field(ge=0, le=1, description="share of the samples that give it this scheme")
    others: dict[str, float] = Field(
        description="share of the samples by the scheme that they give it instead, most first"
    )


class Stability(Record):
    """How often each layer keeps its scheme when the table's losses are drawn again."""

    samples: PositiveInt
    seed: NonNegativeInt
    left_out: tuple[str, ...] = Field(
        default=(), description="limits that the plan keeps to and that the samples do not"
    )
    layers: tuple[LayerStability, ...]

    @property
    def kept(self) -> dict[str, float]:
        """Share of the samples in which each layer keeps its scheme, by layer name."""
        return {one.layer: one.kept for one in self.layers}


def stability(
    table: CostTable,
    plan: Plan,
    *,
    samples: int = 200,
    seed: int = 0,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
) -> Stability:
    """The share of samples of the table in which each layer keeps the plan's scheme.

    Each sample is solved by the Lagrangian relaxation and a local search, at the plan's budget. It
    keeps the plan as it is where nothing better is found. A plan that is not the table's best, such
    as a refined one, is kept less than that.

    Args:
        table: with standard errors; where all are zero, every sample is the table itself.
        plan: of the table.
        samples: number of samples, 1 or more.
        seed: of what is drawn: the same seed draws the same samples.
        pins: those that the plan was solved with.
        fuse: whether it was solved with fused layers, whose losses then move together.
        constraints: all that it was solved with. Where none of these three is given, those that the
            plan records. Limits beside the bytes are left out, and `left_out` names them.

    Raises:
        PlanError: the plan is of another model, or not one that the constraints allow.
        InputError: no samples, a negative seed, or a pin that cannot be used.
    """
    if samples < 1 or seed < 0:
        raise InputError(
            f"{samples} samples with seed {seed} were asked for; it needs at least 1 sample, and "
            "a seed from 0 up."
        )
    problem, choice = chosen(table, plan, pins=pins, fuse=fuse, constraints=constraints)
    left_out, problem = tuple(problem.limit_names), problem.by_bytes_alone()
    found = _choices(problem, choice, _errors(table, problem), samples, seed)
    by_name = {
        name: _layer(problem, name, found[:, row], int(choice[row]))
        for row, names in enumerate(problem.layers)
        for name in names
    }
    layers = tuple(by_name[row.layer.name] for row in table.rows)
    return Stability(samples=samples, seed=seed, left_out=left_out, layers=layers)


def _errors(table: CostTable, problem: Problem) -> np.ndarray:
    """Standard errors [rows, schemes]; those of fused layers add up, as they move together."""
    row = {name: row for row, names in enumerate(problem.layers) for name in names}
    column = {scheme: column for column, scheme in enumerate(problem.schemes)}
    errors = np.zeros(problem.loss.shape)
    for each in table.rows:
        for cost in each.costs:
            errors[row[each.layer.name], column[cost.scheme]] += cost.standard_error
    return errors


def _choices(
    problem: Problem, choice: np.ndarray, errors: np.ndarray, samples: int, seed: int
) -> np.ndarray:
    """The choices [samples, rows] that the samples lead to."""
    drawn = np.random.default_rng(seed).standard_normal((samples, len(choice)))
    found = np.empty((samples, len(choice)), int)
    for sample, moved in enumerate(drawn):
        loss = np.maximum(problem.loss + moved[:, None] * errors, 0.0)
        again = replace(problem, loss=loss)
        solution = branch(again, Hull.of(again), start=choice)
        # Plans that tie are no reason to leave this one.
        is_better = again.loss_of(choice) - solution.loss > ROUNDING * solution.loss
        found[sample] = solution.choice if is_better else choice
    return found


def _layer(problem: Problem, name: str, found: np.ndarray, column: int) -> LayerStability:
    counts = Counter(found.tolist())
    kept = counts.pop(column, 0)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return LayerStability(
        layer=name,
        scheme=problem.schemes[column],
        kept=kept / len(found),
        others={str(problem.schemes[other]): count / len(found) for other, count in ordered},
    )

"""MixDQ (Zhao et al. 2024): two groups of layers, an integer program for each, the budget split.

The layers of a text-to-image model change either its content (feed-forward and cross-attention) or
its quality (all others); the sensitivity of the first is measured in SSIM, of the second in SQNR,
one layer quantized at a time, so their numbers cannot be compared. Each group is solved alone, for
ten ratios k of the first group's mean bits to the second's, and the pair is chosen on the model. As
in its code (github.com/thu-nics/MixDQ, mixed_precision_scripts: optimize/integer_programming.py and
mixed_precision_search.md), whose search for weights this is: the groups by name, k from 0.46 to
1.36.

What differs: both metrics are better where they are higher, so there the sum is maximised; here one
table holds all losses, in one unit, so sums are minimised and the pair is chosen by their total.
There ten totals up to the target are tried as well, mean bits are held to within 0.02, and a k
beyond what a group can use is passed over; here the budget is the total, a limit from above, and
such a k is the nearest that the group can use. The first group has 2, 4 and 8 bits there and the
second 4 and 8; here both have the table's menu.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.hull import Hull
from bitplan.allocator.presets.preset import Preset
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.task import Task

CONTENT = ("ff", "attn2", "mlp", "feed_forward", "experts")
"""What is in the names of the first group's layers: the first two are the paper's, the others are
what feed-forward layers are called in language models."""

RATIOS = np.linspace(0.46, 1.36, 10)


def _split(task: Task, time_limit_s: float) -> Solution:
    problem = task.problem
    content = np.array([any(part in names[0] for part in CONTENT) for names in problem.layers])
    budgets = sorted(set(_budgets(problem, content)))
    end_s = time_limit_s / (2 * len(budgets))
    choices, late = [], False
    for first, second in budgets:
        choice = task.hull.first.copy()
        for rows, budget_bytes in ((content, first), (~content, second)):
            if rows.any():
                part = _part(problem, rows, budget_bytes)
                found = cp_sat(part, Hull.of(part), time_limit_s=end_s)
                late |= found.status is Status.TIME_LIMIT
                choice[rows] = found.choice
        choices.append(choice)
    best = min(choices, key=problem.loss_of)
    status = Status.TIME_LIMIT if late else Status.WITHIN_GAP
    return Solution.of(problem, best, lower_bound(problem, task.hull), status, "mixdq")


def _budgets(problem: Problem, content: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bytes for the first group and for the second, for each ratio of their mean bits."""
    least = np.where(problem.legal, problem.bytes, np.iinfo(np.int64).max).min(axis=1)
    weights = [int(problem.parameters[rows].sum()) for rows in (content, ~content)]
    low, high = int(least[content].sum()), problem.budget_bytes - int(least[~content].sum())
    for ratio in RATIOS.tolist():
        share = ratio * weights[0] / (ratio * weights[0] + weights[1])
        first = min(max(int(share * problem.budget_bytes), low), high)
        yield first, problem.budget_bytes - first


def _part(problem: Problem, rows: np.ndarray, budget_bytes: int) -> Problem:
    """Some rows [rows] bool of a problem, with a budget of their own."""
    return replace(
        problem,
        loss=problem.loss[rows],
        bytes=problem.bytes[rows],
        legal=problem.legal[rows],
        parameters=problem.parameters[rows],
        layers=tuple(
            names for names, is_in in zip(problem.layers, rows.tolist(), strict=True) if is_in
        ),
        budget_bytes=budget_bytes,
        rest_bytes=0,
    )


MIXDQ = Preset(
    name="mixdq",
    title="MixDQ",
    source="Zhao, Ning, Fang, Liu et al. 2024, MixDQ: Memory-Efficient Few-Step Text-to-Image "
    "Diffusion Models with Metric-Decoupled Mixed Precision Quantization, ECCV, arXiv 2405.17873",
    objective="for each of two groups, the sum of its sensitivities; the best of ten splits",
    estimators=("single_swaps",),
    menu="2, 4 and 8 bits",
    choose=_split,
)

"""Layer-wise high-impact ratios (Pham et al. 2025): a quadratic program over all layers' levels.

The paper lets every layer keep its own ratio of high-impact parameters at moderate bits, the others
at extremely few, and chooses the ratios by a quadratic program that heeds dependencies between
layers. Only its abstract was at hand, and no code was found: how it states its objective, and how
it measures the dependencies, could not be checked, so the form and the letters below are ours. Here
a layer's levels are the schemes of the table, whatever they are (no scheme has two widths in one
layer), and the objective is that of second order: losses of levels, and interactions of two layers'
levels. Without interactions in the table this is an integer program like the others.
"""

from bitplan.allocator.presets.preset import Preset
from bitplan.allocator.problem import Solution
from bitplan.allocator.solvers import SOLVERS, choose_solver
from bitplan.allocator.task import Task


def _quadratic_program(task: Task, time_limit_s: float) -> Solution:
    solver = SOLVERS[choose_solver(task.problem)[0]]
    return solver(task.problem, task.hull, time_limit_s=time_limit_s)


HIGH_IMPACT_RATIOS = Preset(
    name="high_impact_ratios",
    title="layer-wise high-impact ratios",
    source="Pham, Dung, Nguyen, Le, Carneiro, Do 2025, Layer-Wise High-Impact Parameter Ratio "
    "Optimization in Post-Training Quantization for Large Language Models, arXiv 2511.17801",
    objective="a quadratic program over all layers' ratios, in our letters: minimise sum_l "
    "s_l(r_l) + sum_l<m q_lm(r_l, r_m), subject to the budget",
    estimators=("gradient_covariance", "single_swaps"),
    menu="levels between extremely few and moderate bits, with interactions between layers",
    choose=_quadratic_program,
    limits=True,
    interactions=True,
)

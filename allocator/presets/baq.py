"""BAQ (Zhang et al. 2025): reverse water-filling, after which all rows lose alike.

With c_l 4^-b the loss of part l at b bits, the paper's closed form is b_l = mean b + 1/2 log2 of
c_l over the geometric mean of all c: every part ends at the same loss. Its code
(github.com/CSU-ModelCompression/BAQ, gptq_action1.py) rounds b = -1/2 log2(12 L d^2), L the common
loss and d of the inverse Hessian's factor, for every column; here a part is a row of the table, its
c is told from the table's losses, and what rounding leaves over is filled greedily. Only the
paper's abstract and its code were at hand, so its equations are given without their numbers.
"""

from bitplan.allocator.presets.preset import Preset
from bitplan.allocator.problem import Solution
from bitplan.allocator.task import Task
from bitplan.allocator.water_filling import water_filling


def _equal_losses(task: Task, time_limit_s: float) -> Solution:
    return water_filling(task.problem, task.hull, time_limit_s=time_limit_s)


BAQ = Preset(
    name="baq",
    title="BAQ",
    source="Zhang, Wang, Lasaulce, Debbah 2025, BAQ: Efficient Bit Allocation Quantization for "
    "Large Language Models, arXiv 2506.05664, the closed form with its equal-loss structure",
    objective="minimise sum_l c_l 4^-b_l, subject to sum_l n_l b_l: equal losses, rounded",
    estimators=("output_error", "gradient_covariance"),
    menu="every whole number of bits",
    choose=_equal_losses,
)

"""The integer program that most of the published methods share; they differ in what is added up.

    minimise sum_l s(l, b_l)   subject to   sum_l m(l, b_l) <= M,   one b_l for every layer l,

with s the sensitivities, m the sizes, and more rows like the second for more limits.
"""

from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.problem import Solution
from bitplan.allocator.task import Task


def integer_program(task: Task, time_limit_s: float) -> Solution:
    """The optimum of a task, proven within the time, whatever its limits. Solved by `cp_sat`."""
    return cp_sat(task.problem, task.hull, time_limit_s=time_limit_s)

"""Two allocations after other projects, over scores of the weights as they are rendered."""

from activations import Activations
from ground import Assignment, Ground

from bitplan.allocator import PRESETS, SOLVERS, Constraints, Problem
from bitplan.allocator.exchange import improve
from bitplan.allocator.hull import Hull
from bitplan.allocator.relaxation import Relaxation

TIME_LIMIT_S = 10.0


def exllama(ground: Ground, activations: Activations, bits: float) -> Assignment:
    """Greedy from the smallest schemes up by error saved per byte, then single and pair exchanges.

    Errors are those of ExLlamaV2's conversion, of each layer's output relative to it. It anneals
    their sum to a power between 1.5 and 3.5; here it is the square.
    """
    table = ground.scored(activations.relative)
    problem = Problem.of(table, ground.budget(bits).total_bytes, pins=ground.pins)
    hull = Hull.of(problem)
    choice = SOLVERS["greedy"](problem, hull, time_limit_s=TIME_LIMIT_S, start=None).choice
    return problem.assignment(improve(problem, Relaxation.of(problem, hull), choice))


def nncf(ground: Ground, activations: Activations, bits: float) -> Assignment:
    """Layers sorted by sensitivity, the most sensitive in the higher of two widths, as many as fit.

    See `bitplan.allocator.presets.nncf`. NNCF knows 4 and 8 bits; here the two widths are those
    around the budget.
    """
    plan = PRESETS["nncf"].plan(
        ground.scored(activations.traced),
        ground.budget(bits),
        constraints=Constraints(pins=ground.pins),
    )
    return plan.schemes

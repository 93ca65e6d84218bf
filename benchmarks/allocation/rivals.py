"""Two published allocations over scores of rendered weights, written here after their sources."""

import itertools
from collections.abc import Sequence

from activations import Activations
from ground import WIDTHS, Assignment, Ground, scheme_of

from bitplan.allocator import SOLVERS, Problem
from bitplan.allocator.exchange import improve
from bitplan.allocator.hull import Hull
from bitplan.allocator.relaxation import Relaxation
from bitplan.schema import Scheme

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
    """Layers sorted by sensitivity: the most sensitive in the backup width, as many as fit.

    The sensitivity is NNCF's HESSIAN_INPUT_ACTIVATION, the mean square of a layer's inputs times
    the squared error of its weight in the backup width. NNCF knows 4 and 8 bits; here the two
    widths are those of least summed sensitivity of all that the budget lies between.
    """
    best: tuple[float, Assignment] | None = None
    for low, high in itertools.combinations(WIDTHS, 2):
        plan = _sorted_plan(ground, activations, bits, low, high)
        if plan is None:
            continue
        loss = sum(activations.traced[name, str(scheme)] for name, scheme in plan.items())
        if best is None or loss < best[0]:
            best = loss, plan
    if best is None:
        raise ValueError(f"No width fits {bits} bits.")
    return best[1]


def _sorted_plan(
    ground: Ground, activations: Activations, bits: float, low: int, high: int
) -> dict[str, Scheme] | None:
    lower, higher = scheme_of(low), scheme_of(high)
    names = [layer.name for layer in ground.layers]
    spare = ground.budget(bits).total_bytes - ground.size_of(dict.fromkeys(names, lower))
    if spare < 0:
        return None
    plan: dict[str, Scheme] = dict.fromkeys(names, lower)
    for name in _most_sensitive_first(activations, names, higher):
        extra = ground.bytes_of(name, higher) - ground.bytes_of(name, lower)
        if extra > spare:
            break
        plan[name] = higher
        spare -= extra
    return plan


def _most_sensitive_first(
    activations: Activations, names: Sequence[str], scheme: Scheme
) -> list[str]:
    return sorted(names, key=lambda name: -activations.traced[name, str(scheme)])

"""Prices on the limits beside bytes: they fold a problem of many limits into one of bytes alone.

For prices p >= 0 on the limits A x <= b, every choice x that keeps to them all loses

    loss(x) >= loss(x) + p (A x - b) >= min over choices within the bytes of the same,

and the last is the relaxation of a problem without those limits, its losses raised by p A. So its
bound and its reduced costs hold for the whole problem, whatever the prices; those of the linear
relaxation make the bound as high as it can be (Geoffrion 1974, "Lagrangean relaxation for integer
programming").
"""

from dataclasses import replace

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import ROUNDING, Problem
from bitplan.allocator.relaxation import Relaxation

MOST_CELLS = 200_000
"""Of a larger table no prices are sought: the linear program would take longer than it saves."""

_WORST = 1e7
"""Losses above this many times the median are as good as forbidden."""


def priced_relaxation(problem: Problem, prices: np.ndarray) -> Relaxation:
    """The relaxation of a problem at prices [limits]; its choice may break the limits.

    Raises `InfeasibleError` where nothing fits the bytes.
    """
    raised = problem.loss.copy()
    constant = 0.0
    for limit, price in zip(problem.limits, prices.tolist(), strict=True):
        raised += price * limit.amounts
        constant += price * limit.most
    alone = replace(problem, loss=raised, limits=(), most_schemes=None)
    relaxation = Relaxation.of(alone, Hull.of(alone))
    # The terms may be far larger than their difference: what their rounding can be is given away.
    bound = relaxation.lower_bound - constant - ROUNDING * abs(constant)
    return replace(relaxation, lower_bound=bound)


def best_prices(problem: Problem, time_limit_s: float) -> np.ndarray:
    """Nats per token and step [limits]: those of the linear relaxation, or zero without them."""
    none = np.zeros(len(problem.limits))
    row, column = np.nonzero(problem.legal)
    loss = problem.loss[row, column]
    if not problem.limits or row.size > MOST_CELLS or not loss.any():
        return none
    # Imported here because they take as long as the rest of this package.
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    unit = float(np.median(loss[loss > 0]))
    sizes = np.array([amounts for amounts, _ in problem.resources])
    most = np.array([most for _, most in problem.resources], float)
    scale = np.maximum(most, 1.0)
    ones = (np.ones(row.size), (row, np.arange(row.size)))
    found = linprog(
        np.minimum(loss, _WORST * unit) / unit,
        A_ub=sizes[:, row, column] / scale[:, None],
        b_ub=most / scale,
        A_eq=csr_array(ones, shape=(len(problem.loss), row.size)),
        b_eq=np.ones(len(problem.loss)),
        method="highs-ipm",
        options={"time_limit": max(time_limit_s, 0.1)},
    )
    if found.status != 0:
        return none
    return np.maximum(-found.ineqlin.marginals[1:], 0.0) * unit / scale[1:]

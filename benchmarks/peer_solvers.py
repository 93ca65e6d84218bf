"""The solvers of two peers, on our problems: written here after theirs, to run on the same tables.

PuLP and its CBC (`pip install pulp`) are needed by `cbc` alone, and by nothing else in bitplan.
"""

import time

import numpy as np

from bitplan.allocator import Problem


def cbc(problem: Problem, *, time_limit_s: float) -> np.ndarray | None:
    """The choice [rows] of ModelOpt's `LPS` (`modelopt/torch/opt/searcher.py`); None: too late.

    It is an integer program of one binary variable for each row and scheme in PuLP, solved by the
    CBC that comes with it under default options but for the time limit.
    """
    import pulp  # pyright: ignore[reportMissingImports]

    rows, schemes = problem.loss.shape
    program = pulp.LpProblem("plan", pulp.LpMinimize)
    taken = [
        [pulp.LpVariable(f"z{row}_{scheme}", cat=pulp.LpBinary) for scheme in range(schemes)]
        for row in range(rows)
    ]
    flat = [variable for each in taken for variable in each]
    program += pulp.LpAffineExpression(zip(flat, problem.loss.ravel().tolist(), strict=True))
    for each in taken:
        program += pulp.lpSum(each) == 1
    size = pulp.LpAffineExpression(zip(flat, problem.bytes.ravel().tolist(), strict=True))
    program += size <= problem.budget_bytes
    program.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_s))
    if program.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return None
    return np.array([[variable.varValue for variable in each] for each in taken]).argmax(axis=1)


def autoround(
    problem: Problem, *, max_states: int | None, time_limit_s: float
) -> np.ndarray | None:
    """The choice [rows] of AutoRound's dynamic program; None: too late.

    After `choose_bits_per_layer_with_path` (`auto_round/auto_scheme/delta_loss.py`): a dictionary
    from total size to least loss and the path to it, a layer after the other; then the states that
    another beats are dropped, and of more than `max_states` some are kept, evenly spaced.
    """
    end = time.monotonic() + time_limit_s
    states: dict[int, tuple[float, tuple]] = {0: (0.0, ())}
    for losses, sizes in zip(problem.loss.tolist(), problem.bytes.tolist(), strict=True):
        if time.monotonic() >= end:
            return None
        after: dict[int, tuple[float, tuple]] = {}
        for total, (loss, path) in states.items():
            for scheme, (added, size) in enumerate(zip(losses, sizes, strict=True)):
                if total + size > problem.budget_bytes:
                    continue
                known = after.get(total + size)
                if known is None or loss + added < known[0]:
                    after[total + size] = (loss + added, (path, scheme))
        states = _front(after)
        if max_states is not None and len(states) > max_states:
            keys = list(states)
            kept = np.linspace(0, len(keys) - 1, max_states).round().astype(int)
            states = {keys[index]: states[keys[index]] for index in kept.tolist()}
    path = min(states.values())[1]
    choice = []
    while path:
        path, scheme = path
        choice.append(scheme)
    return np.array(choice[::-1])


def _front(states: dict[int, tuple[float, tuple]]) -> dict[int, tuple[float, tuple]]:
    best = np.inf
    front = {}
    for total in sorted(states):
        if states[total][0] < best:
            front[total] = states[total]
            best = states[total][0]
    return front

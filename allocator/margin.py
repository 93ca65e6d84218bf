"""What bytes are worth to a plan, and which layers would change next."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bitplan.allocator.branch import branch
from bitplan.allocator.explanation import Increment, Move
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution
from bitplan.allocator.solvers import SOLVERS, choose_solver

GB = 10**9


def larger(problem: Problem, choice: np.ndarray) -> list[Move | None]:
    """For each row the scheme of more bytes that saves most for each; None where none saves."""
    rate, extra = _rates(problem, choice)
    rate = np.where((extra > 0) & (rate > 0), rate, -np.inf)
    return _moves(problem, choice, np.argmax(rate, axis=1), rate > -np.inf)


def smaller(problem: Problem, choice: np.ndarray) -> list[Move | None]:
    """For each row the scheme of fewer bytes that loses least for each; None where none is."""
    rate, extra = _rates(problem, choice)
    rate = np.where(extra < 0, rate, np.inf)
    return _moves(problem, choice, np.argmin(rate, axis=1), rate < np.inf)


def best_at(
    problem: Problem, hull: Hull, budgets: Sequence[int], start: np.ndarray, time_limit_s: float
) -> list[Solution]:
    """The best solution at each budget, in bytes for the rows; where it fits, begin at `start`."""
    solver = SOLVERS[choose_solver(problem)[0]]
    end = time.monotonic() + time_limit_s
    solutions: list[Solution] = []
    for done, budget_bytes in enumerate(budgets):
        share_s = max(1e-3, end - time.monotonic()) / (len(budgets) - done)
        at = replace(problem, budget_bytes=budget_bytes)
        quick = branch(at, hull, start=start)
        solutions.append(solver(at, hull, time_limit_s=share_s, start=quick.choice))
    return solutions


def increment(
    problem: Problem, choice: np.ndarray, more_bytes: int, best: Solution, there: Solution
) -> Increment:
    """The solution `there` beside the `best` one here, and beside the plan's choice [rows]."""
    now, then = problem.assignment(choice), problem.assignment(there.choice)
    return Increment(
        more_bytes=more_bytes,
        predicted_kl=there.loss,
        lower_bound=there.lower_bound,
        change=there.loss - best.loss,
        schemes={name: scheme for name, scheme in then.items() if scheme != now[name]},
    )


def _rates(problem: Problem, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nats saved for each byte added, and bytes added, of every move: both [rows, schemes].

    What is not legal adds no bytes.
    """
    gain = problem.at(choice, problem.loss)[:, None] - problem.loss
    extra = problem.bytes - problem.at(choice, problem.bytes)[:, None]
    extra = np.where(problem.legal, extra, 0)
    return np.divide(gain, extra, out=np.zeros_like(gain), where=extra != 0), extra


def _moves(
    problem: Problem, choice: np.ndarray, to: np.ndarray, possible: np.ndarray
) -> list[Move | None]:
    """A move to the scheme `to` [rows] for each row where it is `possible` [rows, schemes]."""
    moves: list[Move | None] = []
    for row, (now, then) in enumerate(zip(choice.tolist(), to.tolist(), strict=True)):
        if not possible[row, then]:
            moves.append(None)
            continue
        loss = float(problem.loss[row, then] - problem.loss[row, now])
        size = int(problem.bytes[row, then] - problem.bytes[row, now])
        moves.append(
            Move(
                layers=problem.layers[row],
                scheme=problem.schemes[now],
                to=problem.schemes[then],
                bytes=size,
                loss=loss,
                nats_per_gb=-loss / size * GB,
            )
        )
    return moves

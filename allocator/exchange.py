"""Local search from a choice that fits: raise one row, if need be paid for by lowering another."""

from dataclasses import dataclass

import numpy as np

from bitplan.allocator.problem import Problem
from bitplan.allocator.relaxation import Relaxation

MAX_MOVES = 200
MAX_CANDIDATES = 50_000
"""Of more, those of least reduced cost are tried: the others hardly ever help."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moves:
    """Replacements of one row's scheme. All arrays are [moves]."""

    row: np.ndarray
    scheme: np.ndarray
    loss: np.ndarray  # what the move adds
    bytes: np.ndarray  # what the move adds

    def __getitem__(self, keep: np.ndarray) -> "Moves":
        return Moves(
            row=self.row[keep],
            scheme=self.scheme[keep],
            loss=self.loss[keep],
            bytes=self.bytes[keep],
        )


def improve(problem: Problem, relaxation: Relaxation, choice: np.ndarray) -> np.ndarray:
    """A choice [rows] that fits and loses no more than the given one, which must fit.

    Makes the best single move or pair of moves until there is none. Only schemes of the core are
    tried: no better choice contains another.
    """
    choice = choice.copy()
    row, scheme = _candidates(problem, relaxation, choice)
    spare = problem.budget_bytes - problem.bytes_of(choice)
    loss, size = problem.loss[row, scheme], problem.bytes[row, scheme]
    for _ in range(MAX_MOVES):
        now = choice[row]
        moves = Moves(
            row=row,
            scheme=scheme,
            loss=loss - problem.loss[row, now],
            bytes=size - problem.bytes[row, now],
        )
        gain, best = min(_best_single(moves, spare), _best_pair(moves, spare), key=lambda it: it[0])
        if best is None or gain >= 0:
            break
        choice[best.row] = best.scheme
        spare -= int(best.bytes.sum())
    return choice


def _candidates(
    problem: Problem, relaxation: Relaxation, choice: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and schemes of the core, [moves] each."""
    core = relaxation.core(problem.loss_of(choice))
    # A row whose only scheme in the core is the present one has nowhere to go.
    core[np.arange(len(choice)), choice] = False
    row, scheme = np.nonzero(core)
    if row.size > MAX_CANDIDATES:
        order = np.argsort(relaxation.reduced[row, scheme], kind="stable")[:MAX_CANDIDATES]
        row, scheme = row[order], scheme[order]
    # Of an exchanged row the present scheme must stay reachable, to be taken back.
    touched = np.unique(row)
    return np.append(row, touched), np.append(scheme, choice[touched])


def _best_single(moves: Moves, spare: int) -> tuple[float, Moves | None]:
    """The move that saves most loss within the spare bytes, and what it adds to the loss."""
    fitting = moves[(moves.loss < 0) & (moves.bytes <= spare)]
    if not fitting.row.size:
        return 0.0, None
    best = np.argmin(fitting.loss)
    return float(fitting.loss[best]), fitting[np.array([best])]


def _best_pair(moves: Moves, spare: int) -> tuple[float, Moves | None]:
    """The best move that needs room, with the cheapest move of another row that makes it."""
    up = moves[(moves.loss < 0) & (moves.bytes > spare)]
    down = moves[moves.bytes < 0]
    if not up.row.size or not down.row.size:
        return 0.0, None
    down = down[np.lexsort((down.loss, down.bytes))]  # those that free most come first
    enough = np.searchsorted(down.bytes, spare - up.bytes, side="right")
    cheapest = _cheapest_so_far(down.loss)[np.maximum(enough, 1) - 1]
    total = up.loss + down.loss[cheapest]
    total[(enough == 0) | (down.row[cheapest] == up.row)] = np.inf
    best = int(np.argmin(total))
    chosen = np.array([best]), np.array([cheapest[best]])
    first, second = up[chosen[0]], down[chosen[1]]
    pair = Moves(
        row=np.append(first.row, second.row),
        scheme=np.append(first.scheme, second.scheme),
        loss=np.append(first.loss, second.loss),
        bytes=np.append(first.bytes, second.bytes),
    )
    return float(total[best]), pair


def _cheapest_so_far(loss: np.ndarray) -> np.ndarray:
    """For every position the index of the least loss up to it, [moves]."""
    lowest = np.minimum.accumulate(loss)
    new = np.append(True, lowest[1:] < lowest[:-1])
    return np.maximum.accumulate(np.where(new, np.arange(loss.size), 0))

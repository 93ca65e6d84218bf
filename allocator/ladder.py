"""The schemes of each row in order of size: what is one step up, and one step down."""

from dataclasses import dataclass

import numpy as np

from bitplan.allocator.problem import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """Of each row the rungs, smallest first, then padding.

    Without interactions only what no other scheme of the row beats in both loss and bytes: nothing
    else is in any best choice.
    """

    scheme: np.ndarray  # [rows, schemes] int
    bytes: np.ndarray  # [rows, schemes] int64
    rungs: np.ndarray  # [rows] int

    @classmethod
    def of(cls, problem: Problem) -> "Ladder":
        """Sort the legal schemes of every row, and leave out those that are beaten."""
        size = np.where(problem.legal, problem.bytes, np.iinfo(np.int64).max)
        order = np.lexsort((problem.loss, size), axis=1)
        is_rung = np.take_along_axis(problem.legal, order, axis=1)
        if problem.interactions is None:
            loss = np.take_along_axis(problem.loss, order, axis=1)
            least = np.minimum.accumulate(loss, axis=1)
            is_rung[:, 1:] &= loss[:, 1:] < least[:, :-1]
        # The others go to the end; a stable sort keeps the rungs in order.
        rungs_first = np.argsort(~is_rung, axis=1, kind="stable")
        scheme = np.take_along_axis(order, rungs_first, axis=1)
        return cls(
            scheme=scheme,
            bytes=np.take_along_axis(size, scheme, axis=1),
            rungs=is_rung.sum(axis=1),
        )

    def choice(self, level: np.ndarray) -> np.ndarray:
        """The scheme at a level, both [rows]."""
        return self.scheme[np.arange(len(level)), level]

    def level(self, problem: Problem, choice: np.ndarray) -> np.ndarray:
        """The highest rung that is not larger than the choice, all [rows]."""
        size = problem.at(choice, problem.bytes)[:, None]
        known = np.arange(self.bytes.shape[1]) < self.rungs[:, None]
        return (known & (self.bytes <= size)).sum(axis=1) - 1

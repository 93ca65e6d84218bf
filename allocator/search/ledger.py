"""What a search has measured, each plan and sequence once, and the tokens that it took."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bitplan.allocator.problem import Problem
from bitplan.allocator.search.evaluator import Evaluator, Slopes
from bitplan.progress import Progress, quiet, remark

GRADIENT_PASSES = 3
"""Forward passes that one pass forward and back counts as."""


class Spent(Exception):
    """What was asked for would take more tokens than are left."""


@dataclass(kw_only=True)
class Ledger:
    """The plans measured so far. A plan is a choice [rows] of a problem.

    `limit` is in tokens forwarded through the model; what a plan was measured on before costs
    nothing. So what a search does depends on what it measured alone, and not on what a cache knew.
    """

    problem: Problem
    evaluator: Evaluator
    limit: int
    progress: Progress = quiet
    spent: int = 0
    kl_of: dict[bytes, np.ndarray] = field(default_factory=dict)  # [sequences], NaN: not yet
    choices: dict[bytes, np.ndarray] = field(default_factory=dict)
    yardstick: np.ndarray | None = None  # the uniform choice, for people to compare with

    @property
    def everything(self) -> range:
        """All sequences."""
        return range(self.evaluator.sequences)

    @property
    def left(self) -> int:
        """Tokens that may still be forwarded."""
        return self.limit - self.spent

    def kl(self, choices: Sequence[np.ndarray], sequences: Sequence[int]) -> np.ndarray:
        """KL [choices, sequences], nats per token; raises `Spent` before it would take too much."""
        wanted, asked = list(sequences), []
        for choice in choices:
            known = self.known(choice)
            missing = tuple(index for index in wanted if np.isnan(known[index]))
            if missing and not any(
                choice is other or (choice == other).all() for other, _ in asked
            ):
                asked.append((choice, missing))
        self._pay(sum(len(missing) for _, missing in asked) * self.evaluator.tokens_each)
        # Plans of which the same sequences are missing may be measured side by side.
        for missing in dict.fromkeys(missing for _, missing in asked):
            group = [choice for choice, lacking in asked if lacking == missing]
            assignments = [self.problem.assignment(choice) for choice in group]
            for choice, kl in zip(
                group, self.evaluator.measure_many(assignments, missing), strict=True
            ):
                # What is not a number is worse than any number.
                self.known(choice)[list(missing)] = np.where(np.isfinite(kl), kl, np.inf)
        self._tell()
        return np.array([self.known(choice)[wanted] for choice in choices])

    def slopes(self, choice: np.ndarray, lessons: Sequence[int]) -> Slopes | None:
        """What single changes of a choice would do; raises `Spent` as `kl` does."""
        tokens = GRADIENT_PASSES * len(lessons) * self.evaluator.lesson_tokens
        self._pay(tokens, dry=True)
        found = self.evaluator.slopes(self.problem.assignment(choice), lessons)
        if found is not None:
            self._pay(tokens)
        self._tell()
        return found

    def measured(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Every choice that was measured on all sequences, and its KL [sequences]."""
        return [(self.choices[key], kl) for key, kl in self.kl_of.items() if not np.isnan(kl).any()]

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The choice of least mean KL among those that were measured on all sequences."""
        return min(self.measured(), key=lambda pair: pair[1].mean())

    def known(self, choice: np.ndarray) -> np.ndarray:
        """What was measured of a choice so far: KL [sequences], NaN where it was not."""
        key = choice.tobytes()
        if key not in self.kl_of:
            self.choices[key] = choice
            self.kl_of[key] = np.full(self.evaluator.sequences, np.nan)
        return self.kl_of[key]

    def _pay(self, tokens: int, *, dry: bool = False) -> None:
        if tokens > self.left:
            raise Spent
        self.spent += 0 if dry else tokens

    def _tell(self) -> None:
        if self.measured():
            _, best = self.best()
            text = f"KL {best.mean():.4g}"
            if self.yardstick is not None:
                uniform = self.known(self.yardstick)
                both = np.isfinite(uniform)
                if both.any():
                    text += f", uniform {uniform[both].mean() / best[both].mean():.3g} times that"
            remark(self.progress, "refine", text)
        self.progress("refine", self.spent, self.limit)

"""A model without a model: its KL is quadratic in the errors of all layers together.

Each scheme of each layer has an error vector. A sequence's KL is half the square of the sum of all
of them in a metric of its own, so layers interact, and the table (every layer alone) does not tell
of it. The errors of a layer share what is common to all layers; the rest is each scheme's own, as
roundings to different grids are.
"""

import itertools

import numpy as np

from bitplan.allocator import Problem
from bitplan.schema import Cost, CostTable, Kind, Layer, Row, Scheme
from plans import PROVENANCE

NAMES = {"int2g64": 2, "int3g64": 3, "int4g64": 4, "int6g64": 6}
KINDS = ("q_proj", "down_proj")


class QuadraticKL:
    """Measures plans, and counts the tokens; `shared` is how far errors point one way."""

    tokens_each = lesson_tokens = 16

    def __init__(
        self,
        layers: int = 6,
        *,
        shared: float = 0.8,
        sequences: int = 16,
        width: int = 12,
        seed: int = 0,
        tells_slopes: bool = True,
    ) -> None:
        random = np.random.default_rng(seed)
        self.sequences = self.lessons = sequences
        self.tells_slopes = tells_slopes
        self.names = [f"layers.{i // 2}.{KINDS[i % 2]}" for i in range(layers)]
        common = random.standard_normal(width)
        self.errors = {}
        for name in self.names:
            # Layers pull the common way or against it, more or less.
            pull, size = 2 * shared * random.standard_normal() * common, random.lognormal(0, 0.5)
            for scheme, bits in NAMES.items():
                own = random.standard_normal(width)
                self.errors[name, Scheme.parse(scheme)] = size * 2.0**-bits * (own + pull)
        self.metrics = random.standard_normal((sequences, 2 * width, width)) / (2 * width) ** 0.5
        self.tokens = self.calls = self.asked = 0

    def measure_many(self, assignments, sequences) -> list[np.ndarray]:
        self.calls += len(assignments)
        self.tokens += len(assignments) * len(sequences) * self.tokens_each
        return [self.kl(assignment)[list(sequences)] for assignment in assignments]

    def slopes(self, assignment, sequences):
        if not self.tells_slopes:
            return None
        self.asked += 1
        self.tokens += 3 * len(sequences) * self.tokens_each
        metrics = self.metrics[list(sequences)]
        pulled = metrics @ self.total(assignment)
        return {
            name: {
                scheme: ((metrics @ (error - self.errors[name, assignment[name]])) * pulled).sum(1)
                for (owner, scheme), error in self.errors.items()
                if owner == name
            }
            for name in self.names
        }

    def kl(self, assignment) -> np.ndarray:
        """By sequence [sequences]."""
        return self._half_square(self.total(assignment))

    def total(self, assignment) -> np.ndarray:
        return np.sum([self.errors[each] for each in assignment.items()], axis=0)

    def _half_square(self, error: np.ndarray) -> np.ndarray:
        return ((self.metrics @ error) ** 2).sum(axis=1) / 2

    def table(self) -> CostTable:
        """What every layer loses alone."""
        rows = []
        for index, name in enumerate(self.names):
            layer = Layer(name=name, kind=Kind.LINEAR, shape=(8, 100), block=index // 2)
            costs = tuple(
                Cost(
                    scheme=Scheme.parse(scheme),
                    bytes=100 * bits,
                    loss=float(self._half_square(self.errors[name, Scheme.parse(scheme)]).mean()),
                    standard_error=0.0,
                )
                for scheme, bits in NAMES.items()
            )
            rows.append(Row(layer=layer, costs=costs))
        return CostTable(provenance=PROVENANCE, rest_bytes=0, rows=tuple(rows))

    def best(self, budget_bytes: int) -> float:
        """The least mean KL of all plans that fit, by trying each."""
        problem = Problem.of(self.table(), budget_bytes)
        choices = itertools.product(range(len(NAMES)), repeat=len(self.names))
        return min(
            self.kl(problem.assignment(np.array(choice))).mean()
            for choice in choices
            if problem.fits(np.array(choice))
        )

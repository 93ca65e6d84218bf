"""A model without a model: its KL is quadratic in the errors of all layers together.

Each scheme of each layer has an error vector. A sequence's KL is half the square of the sum of all
of them in a metric of its own, so layers interact, the table (every layer alone) does not tell of
it, and the gradient at a plan tells of single changes exactly.
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

    tokens_each = 16

    def __init__(
        self,
        layers: int = 6,
        *,
        shared: float = 0.8,
        sequences: int = 16,
        width: int = 12,
        seed: int = 0,
        tells_changes: bool = True,
    ) -> None:
        random = np.random.default_rng(seed)
        self.sequences, self.tells_changes = sequences, tells_changes
        self.names = [f"layers.{i // 2}.{KINDS[i % 2]}" for i in range(layers)]
        common = random.standard_normal(width)
        self.errors = {}
        for name in self.names:
            # Layers pull the common way or against it, more or less.
            own = random.standard_normal(width) + 2 * shared * random.standard_normal() * common
            size = random.lognormal(0, 0.5)
            for scheme, bits in NAMES.items():
                jitter = 0.3 * random.standard_normal(width)
                self.errors[name, Scheme.parse(scheme)] = size * 2.0**-bits * (own + jitter)
        self.metrics = random.standard_normal((sequences, 2 * width, width)) / (2 * width) ** 0.5
        self.tokens = self.calls = self.asked = 0

    def measure_many(self, assignments, sequences) -> list[np.ndarray]:
        self.calls += len(assignments)
        self.tokens += len(assignments) * len(sequences) * self.tokens_each
        return [self.kl(assignment)[list(sequences)] for assignment in assignments]

    def changes(self, assignment, sequences):
        if not self.tells_changes:
            return None
        self.asked += 1
        self.tokens += 3 * len(sequences) * self.tokens_each
        total, here = self.total(assignment), self.kl(assignment)
        return {
            name: {
                scheme: (
                    self._half_square(total + error - self.errors[name, assignment[name]]) - here
                )[list(sequences)]
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

"""Small tables, and everything that can be chosen from one."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import strategies as st

from bitplan.allocator import Problem
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Row, Scheme
from plans import PROVENANCE

NAMES = ("int2g64", "int3g64", "int4g64", "int5g64", "int6g64", "int8", "bf16")
BITS = (2, 3, 4, 5, 6, 8, 16)
REST = 1000


class Tables:
    """Makes tables. Rows are named a0, a1, ...; `error` is a share of each loss."""

    def of(
        self,
        rows: Sequence[dict[str, tuple[int, float]]],
        *,
        error: float = 0.0,
        fuse: Sequence[str | None] = (),
        weights: Sequence[int] = (),
    ) -> CostTable:
        """A table from {scheme: (bytes, loss)} for each row."""
        return CostTable(
            provenance=PROVENANCE,
            rest_bytes=REST,
            rows=tuple(
                Row(
                    layer=Layer(
                        name=f"a{index}",
                        kind=Kind.LINEAR,
                        shape=(weights[index] if weights else 64, 1),
                        block=index,
                        fuse=fuse[index] if fuse else None,
                    ),
                    costs=tuple(
                        Cost(
                            scheme=Scheme.parse(name),
                            bytes=size,
                            loss=loss,
                            standard_error=loss * error,
                        )
                        for name, (size, loss) in row.items()
                    ),
                )
                for index, row in enumerate(rows)
            ),
        )

    def synthetic(self, rows: int, *, seed: int = 0, error: float = 0.0) -> CostTable:
        """As real ones are: the loss falls fourfold a bit, from a scale that is lognormal."""
        rng = np.random.default_rng(seed)
        scales, weights = rng.lognormal(-4, 1.5, rows), rng.choice([4096, 16384, 24576], rows)
        noise = rng.lognormal(0, 0.1, (rows, len(BITS)))
        return self.of(
            [
                {
                    name: (int(w) * b // 8 + int(w) // 16, float(scale * 4.0**-b * n))
                    for name, b, n in zip(NAMES, BITS, each, strict=True)
                }
                for scale, w, each in zip(scales, weights, noise, strict=True)
            ],
            error=error,
            weights=weights.tolist(),
        )

    def any(self, *, max_rows: int = 5, error: float = 0.0) -> st.SearchStrategy[CostTable]:
        """Small tables of every kind: ties, zeros, losses far apart, schemes missing."""
        losses = st.one_of(
            st.sampled_from([0.0, 0.5, 1.0, 2.0]),
            st.floats(-9, 2).map(lambda power: 10.0**power),
        )
        costs = st.tuples(st.integers(1, 60), losses)
        row = st.dictionaries(st.sampled_from(NAMES[:4]), costs, min_size=1, max_size=4)
        rows = st.lists(row, min_size=1, max_size=max_rows)
        return rows.map(lambda drawn: self.of(drawn, error=error))

    def budget(self, table: CostTable, share: float) -> Budget:
        """That share of the way from the smallest to the largest plan."""
        sizes = [[cost.bytes for cost in row.costs] for row in table.rows]
        low, high = (REST + sum(map(most, sizes)) for most in (min, max))
        return Budget(bytes=low + int((high - low) * share))


@pytest.fixture(scope="session")
def tables() -> Tables:
    return Tables()


@pytest.fixture(scope="session")
def every_choice() -> Callable[[Problem], np.ndarray]:
    """All legal choices [choices, rows] of a small problem, whatever their size."""

    def every(problem: Problem) -> np.ndarray:
        legal = [np.flatnonzero(row).tolist() for row in problem.legal]
        return np.array(list(itertools.product(*legal)), int)

    return every

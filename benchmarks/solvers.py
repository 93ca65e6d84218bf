"""Times the solvers: 210 x 24 to proven optimality, a frontier of 20 budgets, 100,000 x 6 relaxed.

    python benchmarks/solvers.py [--repeats 7] [--large]

Each row of output is the median and the spread (least to most) over the repeats; every repeat is
another random table, so the spread is that of the problems as well. Losses are c * 4^-bits with c
lognormal by layer and a little noise by scheme; bytes are of the shapes of SmolLM2-135M. The bars:
210 x 24 to proven optimality in under 1 s, the frontier in under 5 s.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import ortools

from bitplan.allocator import Problem, frontier, solve
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Provenance, Row, Scheme

SHAPES = {
    "q_proj": (576, 576),
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "o_proj": (576, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
GROUP_FACTOR = {32: 0.7, 64: 0.85, 128: 1.0, 0: 1.6}
SCHEMES_24 = [(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in GROUP_FACTOR]
SCHEMES_6 = [(bits, 64) for bits in (2, 3, 4, 5, 6, 8)]


def problem_of(rng: np.random.Generator, rows: int, schemes: Sequence[tuple[int, int]]) -> Problem:
    """A problem of any size, its budget halfway between smallest and largest."""
    shapes = np.array(list(SHAPES.values()))[np.arange(rows) % len(SHAPES)]
    out, inner = shapes[:, 0, None], shapes[:, 1, None]
    bits = np.array([bits for bits, _ in schemes])
    group = np.array([group for _, group in schemes])
    factor = np.array([GROUP_FACTOR[int(each)] for each in group])
    scale = rng.lognormal(-4, 1.5, (rows, 1)) * rng.lognormal(0, 0.1, (rows, len(schemes)))
    groups = np.where(group == 0, 1, -(-inner // np.maximum(group, 1)))
    size = out * (-(-inner * bits // 8) + 4 * groups)
    return Problem(
        loss=scale * factor * 4.0**-bits,
        bytes=size,
        legal=np.ones(size.shape, bool),
        parameters=shapes.prod(axis=1),
        budget_bytes=int(size.min(axis=1).sum() + size.max(axis=1).sum()) // 2,
    )


def table_of(problem: Problem, schemes: Sequence[tuple[int, int]]) -> CostTable:
    """The same as a cost table."""
    names = [Scheme.parse(f"int{bits}" + (f"g{group}" if group else "")) for bits, group in schemes]
    kinds = list(SHAPES)
    return CostTable(
        provenance=_PROVENANCE,
        rest_bytes=1_000_000,
        rows=tuple(
            Row(
                layer=Layer(
                    name=f"layers.{index // len(kinds):03}.{kinds[index % len(kinds)]}",
                    kind=Kind.LINEAR,
                    shape=SHAPES[kinds[index % len(kinds)]],
                ),
                costs=tuple(
                    Cost(scheme=scheme, bytes=int(size), loss=float(loss), standard_error=0.0)
                    for scheme, size, loss in zip(names, sizes, losses, strict=True)
                ),
            )
            for index, (sizes, losses) in enumerate(zip(problem.bytes, problem.loss, strict=True))
        ),
    )


def timed(run: Callable[[], str]) -> tuple[float, str]:
    """Seconds that a run took, and what it says."""
    began = time.perf_counter()
    note = run()
    return time.perf_counter() - began, note


def exact_case(seed: int) -> Callable[[], str]:
    problem = problem_of(np.random.default_rng(seed), 210, SCHEMES_24)
    return lambda: cp_sat(problem, Hull.of(problem)).status.name


def solve_case(seed: int) -> Callable[[], str]:
    problem = problem_of(np.random.default_rng(seed), 210, SCHEMES_24)
    table = table_of(problem, SCHEMES_24)
    budget = Budget(bytes=problem.budget_bytes + table.rest_bytes)
    return lambda: f"gap {solve(table, budget, solver='cp_sat').gap:.0e}"


def frontier_case(seed: int) -> Callable[[], str]:
    table = table_of(problem_of(np.random.default_rng(seed), 210, SCHEMES_24), SCHEMES_24)

    def run() -> str:
        plans = frontier(table, points=20)
        return f"{len(plans)} plans, gap {max(plan.gap for plan in plans):.0e}"

    return run


def relaxed_case(rows: int, schemes: Sequence[tuple[int, int]]) -> Callable[[int], Callable]:
    def make(seed: int) -> Callable[[], str]:
        problem = problem_of(np.random.default_rng(seed), rows, schemes)
        return lambda: f"gap {lagrangian(problem, Hull.of(problem)).gap:.0e}"

    return make


def large_exact_case(seed: int) -> Callable[[], str]:
    problem = problem_of(np.random.default_rng(seed), 20_000, SCHEMES_24)
    return lambda: cp_sat(problem, Hull.of(problem)).status.name


CASES: dict[str, Callable[[int], Callable[[], str]]] = {
    "cp_sat, 210 x 24, arrays": exact_case,
    "cp_sat, 210 x 24, table to plan": solve_case,
    "frontier of 20, 210 x 24": frontier_case,
    "lagrangian, 100,000 x 6": relaxed_case(100_000, SCHEMES_6),
}
LARGE_CASES: dict[str, Callable[[int], Callable[[], str]]] = {
    "cp_sat, 20,000 x 24": large_exact_case,
    "lagrangian, 1,000,000 x 8": relaxed_case(1_000_000, SCHEMES_24[:8]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the solvers.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--large", action="store_true", help="also a million rows")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}, ortools {ortools.__version__}"
    )
    exact_case(0)()  # so that the import of CP-SAT is not timed
    print(f"{'case':36}{'median':>10}{'least':>10}{'most':>10}  notes")
    for name, make in (CASES | (LARGE_CASES if arguments.large else {})).items():
        results = [timed(make(seed)) for seed in range(arguments.repeats)]
        seconds = [result[0] for result in results]
        notes = ", ".join(dict.fromkeys(result[1] for result in results))
        numbers = "".join(
            f"{value:8.3f} s" for value in (statistics.median(seconds), min(seconds), max(seconds))
        )
        print(f"{name:36}{numbers}  {notes}", flush=True)


_PROVENANCE = Provenance(
    model="synthetic",
    model_digest="0",
    dtype="bfloat16",
    calibration="none",
    calibration_digest="0",
    calibration_tokens=0,
    estimator="synthetic",
    quantizer="none",
    seed=0,
    versions={},
)


if __name__ == "__main__":
    main()

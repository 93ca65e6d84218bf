"""Times the solvers, and those of two peers on the same tables in the same run.

    pip install pulp                 # brings CBC, the solver of ModelOpt
    python benchmarks/solvers.py [--repeats 5] [--peers] [--large]

Each row of output is the median and the spread (least to most) over the repeats; every repeat is
another random table, so the spread is that of the problems as well. Losses are c * 4^-bits with c
lognormal by layer and a little noise by scheme; bytes are of the shapes of SmolLM2-135M. The bars:
560 x 20 to proven optimality in at most 0.5 s; 1,000,000 x 8 within 1e-6 of the bound in at most
3 s and 2 GB, in a fresh process whose peak memory is measured. `--peers` runs ModelOpt's integer
program and AutoRound's dynamic program (see `peer_solvers.py`) beside ours, for 60 s at most each.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ortools

from bitplan.allocator import SOLVERS, Problem, frontier, solve
from bitplan.allocator.hull import Hull
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Provenance, Row, Scheme

sys.path.insert(0, str(Path(__file__).parent))  # also where PYTHONSAFEPATH leaves it out
from peer_solvers import autoround, cbc

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


Case = Callable[[int], Callable[[], str]]
"""From a seed to what is timed, which tells what came out."""


def random_problem(seed: int, rows: int, schemes: Sequence[tuple[int, int]]) -> Problem:
    return problem_of(np.random.default_rng(seed), rows, schemes)


def solver_case(name: str, rows: int, schemes: Sequence[tuple[int, int]]) -> Case:
    """A solver of ours on arrays, the hull included."""

    def make(seed: int) -> Callable[[], str]:
        problem = random_problem(seed, rows, schemes)

        def run() -> str:
            solution = SOLVERS[name](problem, Hull.of(problem), time_limit_s=PEER_LIMIT_S)
            return f"{solution.status.name}, gap {solution.gap:.0e}"

        return run

    return make


def peer_case(
    peer: Callable[[Problem], np.ndarray | None], rows: int, schemes: Sequence[tuple[int, int]]
) -> Case:
    """A peer's solver, whose loss is compared with the proven optimum."""

    def make(seed: int) -> Callable[[], str]:
        problem = random_problem(seed, rows, schemes)
        best = SOLVERS["dynamic_programming"](problem, Hull.of(problem)).loss

        def run() -> str:
            choice = peer(problem)
            if choice is None:
                return f"nothing in {PEER_LIMIT_S:.0f} s"
            fits = "" if problem.fits(choice) else ", OVER BUDGET"
            return f"{problem.loss_of(choice) / best - 1:.0e} above the optimum{fits}"

        return run

    return make


def solve_case(seed: int) -> Callable[[], str]:
    problem = random_problem(seed, 210, SCHEMES_24)
    table = table_of(problem, SCHEMES_24)
    budget = Budget(bytes=problem.budget_bytes + table.rest_bytes)
    return lambda: f"gap {solve(table, budget).gap:.0e}"


def frontier_case(seed: int) -> Callable[[], str]:
    table = table_of(random_problem(seed, 210, SCHEMES_24), SCHEMES_24)

    def run() -> str:
        plans = frontier(table, points=20)
        return f"{len(plans)} plans, gap {max(plan.gap for plan in plans):.0e}"

    return run


class Timing(NamedTuple):
    """Of one run. The processor's seconds tell what others on the machine took."""

    seconds: float
    cpu_seconds: float
    note: str


def measure(make: Case, seed: int) -> Timing:
    """Make a case, then time it alone."""
    run = make(seed)
    began, cpu_began = time.perf_counter(), _cpu_seconds()
    note = run()
    return Timing(time.perf_counter() - began, _cpu_seconds() - cpu_began, note)


def _cpu_seconds() -> float:
    """Of this process and of those it waited for: CBC is one."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure_alone(name: str, seed: int) -> Timing:
    """The same in a process of its own, with the peak of its memory, table and imports included."""
    command = [sys.executable, __file__, "--alone", name, "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Timing(*json.loads(done.stdout))


def alone(name: str, seed: int) -> None:
    timing = measure(LARGE_CASES[name], seed)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(timing._replace(note=f"{timing.note}, peak {peak_gb:.2f} GB")))


S20, S8 = SCHEMES_24[:20], SCHEMES_24[:8]
PEER_LIMIT_S = 60.0
CASES: dict[str, Case] = {
    f"{name}, 560 x 20": solver_case(name, 560, S20)
    for name in SOLVERS
    if name not in ("quadratic", "descent")
} | {
    "table to plan, 210 x 24": solve_case,
    "frontier of 20, 210 x 24": frontier_case,
}
PEER_CASES: dict[str, Case] = {
    "ModelOpt's PuLP/CBC, 560 x 20": peer_case(
        lambda problem: cbc(problem, time_limit_s=PEER_LIMIT_S), 560, S20
    ),
    "AutoRound's DP, 560 x 20": peer_case(
        lambda problem: autoround(problem, max_states=None, time_limit_s=PEER_LIMIT_S), 560, S20
    ),
    "AutoRound's DP, 500 states, 560 x 20": peer_case(
        lambda problem: autoround(problem, max_states=500, time_limit_s=PEER_LIMIT_S), 560, S20
    ),
    "ModelOpt's PuLP/CBC, 5,000 x 8": peer_case(
        lambda problem: cbc(problem, time_limit_s=PEER_LIMIT_S), 5_000, S8
    ),
    "dynamic_programming, 5,000 x 8": solver_case("dynamic_programming", 5_000, S8),
}
LARGE_CASES: dict[str, Case] = {
    "lagrangian, 1,000,000 x 8": solver_case("lagrangian", 1_000_000, S8),
    "dynamic_programming, 1,000,000 x 8": solver_case("dynamic_programming", 1_000_000, S8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the solvers.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="also those of ModelOpt and AutoRound")
    parser.add_argument("--large", action="store_true", help="also a million rows")
    parser.add_argument("--alone", choices=LARGE_CASES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        alone(arguments.alone, arguments.seed)
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, numpy {np.__version__}, ortools {ortools.__version__}"
    )
    for name in SOLVERS:  # so that no import is timed
        solver_case(name, 8, S8)(0)()
    print(f"{'case':38}{'median':>10}{'least':>10}{'most':>10}{'CPU':>10} notes")
    for name, make in (CASES | (PEER_CASES if arguments.peers else {})).items():
        show(name, [measure(make, seed) for seed in range(arguments.repeats)])
    for name in LARGE_CASES if arguments.large else ():
        show(name, [measure_alone(name, seed) for seed in range(arguments.repeats)])


def show(name: str, timings: Sequence[Timing]) -> None:
    seconds = [timing.seconds for timing in timings]
    numbers = statistics.median(seconds), min(seconds), max(seconds)
    cpu = statistics.median(timing.cpu_seconds for timing in timings)
    notes = "; ".join(dict.fromkeys(timing.note for timing in timings))
    print(f"{name:38}" + "".join(f"{value:8.3f} s" for value in (*numbers, cpu)), notes, flush=True)


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

"""Known answers, an independent solver, brute force on small tables, and properties of both."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from bitplan.allocator import (
    SOLVERS,
    Problem,
    Status,
    choose_solver,
    frontier,
    smallest_bytes,
    solve,
    uniform,
)
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.dynamic_programming import dynamic_programming
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.errors import BudgetError, InfeasibleError, InputError
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Row, Scheme
from plans import PROVENANCE

EXACT = ("dynamic_programming", "cp_sat", "milp", "quadratic")
NAMES = ("int2g64", "int3g64", "int4g64", "int5g64", "int6g64", "int8", "bf16")
REST = 1000


def table_of(rows: list[dict[str, tuple[int, float]]], rest_bytes: int = REST) -> CostTable:
    """A table from {scheme: (bytes, loss)} for each row; rows are named a0, a1, ..."""
    return CostTable(
        provenance=PROVENANCE,
        rest_bytes=rest_bytes,
        rows=tuple(
            Row(
                layer=Layer(name=f"a{index}", kind=Kind.LINEAR, shape=(8, 8), block=index),
                costs=tuple(
                    Cost(scheme=Scheme.parse(name), bytes=size, loss=loss, standard_error=0.0)
                    for name, (size, loss) in row.items()
                ),
            )
            for index, row in enumerate(rows)
        ),
    )


@st.composite
def tables(draw: st.DrawFn, max_rows: int = 5) -> CostTable:
    """Small tables of every kind: ties, zeros, losses from 1e-12 to 1e3, schemes missing."""
    losses = st.one_of(
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.floats(-12, 3).map(lambda power: 10.0**power),
    )
    costs = st.tuples(st.integers(1, 60), losses)
    row = st.dictionaries(st.sampled_from(NAMES[:4]), costs, min_size=1, max_size=4)
    return table_of(draw(st.lists(row, min_size=1, max_size=max_rows)))


def synthetic(rows: int, seed: int = 0) -> CostTable:
    """A table as real ones are: the loss falls fourfold a bit, from a scale that is lognormal."""
    rng = np.random.default_rng(seed)
    bits = (2, 3, 4, 5, 6, 8, 16)
    table = []
    for scale in rng.lognormal(-4, 1.5, rows):
        weights = int(rng.choice([4096, 16384, 24576]))
        noise = rng.lognormal(0, 0.1, len(bits))
        table.append(
            {
                name: (weights * b // 8 + weights // 16, float(scale * 4.0**-b * n))
                for name, b, n in zip(NAMES, bits, noise, strict=True)
            }
        )
    return table_of(table)


def brute_force(table: CostTable, budget_bytes: int) -> float:
    """The least loss of all combinations that fit; infinite where none does."""
    return min(
        (
            math.fsum(cost.loss for cost in costs)
            for costs in itertools.product(*(row.costs for row in table.rows))
            if table.rest_bytes + sum(cost.bytes for cost in costs) <= budget_bytes
        ),
        default=math.inf,
    )


def span(table: CostTable) -> tuple[int, int]:
    """Bytes of the smallest and of the largest plan."""
    sizes = [[cost.bytes for cost in row.costs] for row in table.rows]
    return REST + sum(map(min, sizes)), REST + sum(map(max, sizes))


def test_known_answer() -> None:
    # Ten spare bytes: both layers gain from 4 bits, the second more.
    table = table_of(
        [
            {"int2g64": (10, 5.0), "int4g64": (20, 1.0)},
            {"int2g64": (10, 9.0), "int4g64": (20, 2.0)},
        ]
    )
    for solver in ("lagrangian", *EXACT):
        plan = solve(table, Budget(bytes=REST + 30), solver=solver)
        assert {name: str(scheme) for name, scheme in plan.schemes.items()} == {
            "a0": "int2g64",
            "a1": "int4g64",
        }
        assert (plan.bytes, plan.predicted_kl, plan.gap) == (REST + 30, 7.0, 0.0)
        assert plan.lower_bound == plan.predicted_kl
        assert plan.status == Status.OPTIMAL.value
        assert plan.solver == solver
        assert plan.provenance == table.provenance


def test_a_point_above_the_hull_is_found() -> None:
    # int3 lies above the line from int2 to int4, so no price chooses it, but it alone fits.
    table = table_of([{"int2g64": (10, 9.0), "int3g64": (19, 8.0), "int4g64": (20, 1.0)}])
    for solver in ("lagrangian", *EXACT):
        plan = solve(table, Budget(bytes=REST + 19), solver=solver)
        assert plan.predicted_kl == 8.0
        assert plan.lower_bound <= 8.0


@pytest.mark.parametrize("seed", range(4))
def test_exact_agrees_with_an_independent_solver(seed: int) -> None:
    table = synthetic(40, seed)
    low, high = span(table)
    budget = low + (high - low) * (seed + 1) // 8
    plan = solve(table, Budget(bytes=budget), solver="cp_sat")
    problem = Problem.of(table, budget)
    size, loss = problem.bytes.ravel(), problem.loss.ravel()
    one_each = np.kron(np.eye(40), np.ones(problem.loss.shape[1]))
    result = milp(
        100 * loss / plan.predicted_kl,  # HiGHS stops at an absolute gap of 1e-6
        integrality=np.ones(loss.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(size[None] / 4096, ub=problem.budget_bytes / 4096),
        ],
        options={"mip_rel_gap": 0.0},
    )
    chosen = result.x > 0.5
    assert size[chosen].sum() <= problem.budget_bytes
    assert plan.status == Status.OPTIMAL.value
    assert plan.predicted_kl <= loss[chosen].sum() * (1 + 1e-12)
    assert plan.predicted_kl == pytest.approx(loss[chosen].sum(), rel=1e-6)


@pytest.mark.parametrize("solver", ["dynamic_programming", "cp_sat"])
@settings(deadline=None, max_examples=100)
@given(table=tables(), share=st.floats(0, 1.1))
def test_brute_force(solver: str, table: CostTable, share: float) -> None:
    low, high = span(table)
    budget = low + int((high - low) * share)
    best = brute_force(table, budget)
    exact = solve(table, Budget(bytes=budget), solver=solver)
    quick = solve(table, Budget(bytes=budget), solver="lagrangian")
    assert exact.predicted_kl == pytest.approx(best, rel=1e-9, abs=0)
    assert exact.gap == 0
    assert exact.status in {Status.OPTIMAL.value, Status.UNCONSTRAINED.value}
    assert quick.predicted_kl >= exact.predicted_kl * (1 - 1e-12)
    assert quick.lower_bound <= best * (1 + 1e-12)
    for plan in (exact, quick):
        assert plan.bytes <= budget
        assert plan.lower_bound <= plan.predicted_kl
        assert [choice.layer for choice in plan.choices] == [row.layer for row in table.rows]
        assert plan.predicted_kl == math.fsum(choice.loss for choice in plan.choices)
    for plan in uniform(table, Budget(bytes=budget)):
        assert plan.bytes <= budget
        assert quick.predicted_kl <= plan.predicted_kl * (1 + 1e-12)
        assert plan.lower_bound <= best * (1 + 1e-12)


def test_many_equal_layers() -> None:
    # An exact search that told equal layers apart would try their permutations for minutes.
    kinds = synthetic(7, seed=3).rows
    table = table_of(
        [
            {str(cost.scheme): (cost.bytes, cost.loss) for cost in kinds[index % 7].costs}
            for index in range(210)
        ]
    )
    low, high = span(table)
    for share, solver in itertools.product((0.1, 0.31, 0.5), ("cp_sat", "dynamic_programming")):
        plan = solve(table, Budget(bytes=int(low + share * (high - low))), solver=solver)
        assert plan.status == Status.OPTIMAL.value


def test_zero_loss_is_found_and_has_no_gap() -> None:
    table = table_of([{"int2g64": (10, 0.0), "int4g64": (20, 0.0)}] * 3)
    for solver in SOLVERS:
        plan = solve(table, Budget(bytes=REST + 40), solver=solver)
        assert (plan.predicted_kl, plan.lower_bound, plan.gap) == (0.0, 0.0, 0.0)
        assert plan.bytes == REST + 30


def test_losses_far_apart_are_all_exact() -> None:
    # One layer loses 1e3 whatever is done; in the others 1e-12 decides.
    rows = [{"int8": (10, 1e3)}]
    rows += [{"int2g64": (1, 2e-12), "int4g64": (2, 1e-12)}, {"int2g64": (1, 0.5), "bf16": (4, 0)}]
    table = table_of(rows)
    plan = solve(table, Budget(bytes=REST + 15))
    assert {str(choice.scheme) for choice in plan.choices} == {"int8", "int2g64", "bf16"}
    plan = solve(table_of(rows[1:]), Budget(bytes=REST + 3))
    assert plan.predicted_kl == 0.5 + 1e-12


@pytest.mark.parametrize("solver", [*SOLVERS, "auto"])
def test_a_budget_larger_than_the_model_keeps_everything_and_says_so(solver: str) -> None:
    table = synthetic(9)
    plan = solve(table, 1000.0, solver=solver)
    assert plan.status == Status.UNCONSTRAINED.value
    assert plan.budget_bytes == 10**12
    assert plan.gap == 0
    assert all(
        choice.loss == min(cost.loss for cost in row.costs)
        for choice, row in zip(plan.choices, table.rows, strict=True)
    )
    again = solve(table, Budget(bytes=plan.bytes), solver=solver)
    assert again.schemes == plan.schemes


@pytest.mark.parametrize("solver", [*SOLVERS, "auto"])
def test_infeasible_names_the_smallest(solver: str) -> None:
    table = synthetic(9)
    smallest = smallest_bytes(table)
    assert smallest == span(table)[0]
    assert solve(table, Budget(bytes=smallest), solver=solver).bytes == smallest
    with pytest.raises(InfeasibleError, match=f"{smallest:,}") as raised:
        solve(table, Budget(bytes=smallest - 1), solver=solver)
    assert raised.value.smallest_bytes == smallest
    assert raised.value.budget_bytes == smallest - 1
    with pytest.raises(InfeasibleError):
        solve(table, Budget(bytes=1), solver=solver)


@pytest.mark.parametrize("budget", [0, -1.0, math.nan, math.inf])
def test_no_budget_at_all(budget: float) -> None:
    with pytest.raises(BudgetError):
        solve(synthetic(2), budget)


def test_an_unknown_solver_lists_the_known() -> None:
    with pytest.raises(InputError, match="auto, dynamic_programming, cp_sat"):
        solve(synthetic(2), 1.0, solver="simplex")
    with pytest.raises(InputError, match="from 0 up"):
        solve(synthetic(2), 1.0, time_limit_s=-1)


def subset_sum(rows: int) -> Problem:
    """Loss is exactly proportional to bytes: the relaxation cannot tell any two plans apart."""
    size = np.random.default_rng(1).integers(10**6, 10**7, (rows, 6))
    return Problem(
        loss=(size.max() - size) * 1e-7 + 0.1,
        bytes=size,
        legal=np.ones(size.shape, bool),
        parameters=size[:, 0],
        budget_bytes=int(size.mean(axis=1).sum()),
    )


def test_the_time_limit_ends_the_search_with_an_honest_bound() -> None:
    problem = subset_sum(20)
    hull = Hull.of(problem)
    quick = lagrangian(problem, hull)
    solution = cp_sat(problem, hull, time_limit_s=0.05)
    assert solution.status is Status.TIME_LIMIT
    assert quick.lower_bound <= solution.lower_bound <= solution.loss <= quick.loss
    assert problem.fits(solution.choice)


def test_dropped_states_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    table = synthetic(40)
    low, high = span(table)
    problem = Problem.of(table, low + (high - low) // 3)
    hull = Hull.of(problem)
    exact = dynamic_programming(problem, hull)
    assert exact.status is Status.OPTIMAL
    losses = []
    for states in (1, 3, 10, 100):
        monkeypatch.setattr("bitplan.allocator.dynamic_programming.MAX_STATES", states)
        solution = dynamic_programming(problem, hull)
        assert solution.bytes <= problem.budget_bytes
        assert solution.lower_bound <= exact.loss <= solution.loss
        losses.append(solution.loss)
    assert solution.gap < 1e-2
    assert losses[-1] <= losses[0]


def test_the_choice_of_solver_can_be_asked() -> None:
    assert choose_solver(subset_sum(20)) == (
        "dynamic_programming",
        "120 cells are few enough to prove the optimum",
    )
    name, reason = choose_solver(subset_sum(400_000))
    assert name == "lagrangian"
    assert "2,400,000 cells" in reason


def test_lagrangian_is_close_at_scale() -> None:
    rng = np.random.default_rng(0)
    bits = np.array([2, 3, 4, 5, 6, 8])
    weights = rng.choice([4096, 16384, 24576], 20_000)
    problem = Problem(
        loss=rng.lognormal(-4, 1.5, (20_000, 1)) * 4.0**-bits,
        bytes=weights[:, None] * bits // 8,
        legal=np.ones((20_000, 6), bool),
        parameters=weights,
        budget_bytes=int(weights.sum() * 3.3 / 8),
    )
    solution = lagrangian(problem, Hull.of(problem))
    assert solution.gap < 1e-6
    assert solution.bytes <= problem.budget_bytes


@pytest.mark.parametrize("solver", [*SOLVERS, "auto"])
def test_frontier(solver: str) -> None:
    table = synthetic(30)
    plans = frontier(table, points=12, solver=solver)
    assert len(plans) == 12
    assert plans[0].bytes == plans[0].budget_bytes == smallest_bytes(table)
    assert plans[-1].status == Status.UNCONSTRAINED.value
    assert plans[-1].bytes == plans[-1].budget_bytes
    losses = [plan.predicted_kl for plan in plans]
    assert losses == sorted(losses, reverse=True)
    for plan in plans:
        assert plan.bytes <= plan.budget_bytes
        alone = solve(table, Budget(bytes=plan.budget_bytes), solver="cp_sat")
        assert plan.lower_bound <= alone.predicted_kl * (1 + 1e-12)
        if solver in (*EXACT[:2], "auto"):
            assert plan.predicted_kl == pytest.approx(alone.predicted_kl, rel=1e-9)


def test_a_frontier_of_one_budget_has_one_plan() -> None:
    assert len(frontier(table_of([{"int8": (10, 1.0)}]), points=20)) == 1
    with pytest.raises(InputError, match="at least 2"):
        frontier(synthetic(2), points=1)

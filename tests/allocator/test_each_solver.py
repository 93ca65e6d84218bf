"""What holds for every solver, and for every exact one, with rows that interact and without."""

import itertools
import math
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from bitplan.allocator import SOLVERS, Problem, Solver, Status, choose_solver
from bitplan.allocator.convex import relax_and_round
from bitplan.allocator.hull import Hull
from bitplan.allocator.interactions import interactions_of
from bitplan.errors import InfeasibleError, InputError, TableError
from bitplan.schema import Scheme

EVERY = [pytest.param(solver, id=name) for name, solver in SOLVERS.items()]
EXACT = [pytest.param(solver, id=name) for name, solver in SOLVERS.items() if solver.exact]
JOINT = [pytest.param(solver, id=name) for name, solver in SOLVERS.items() if solver.interactions]
PRECISION = 1e-8
"""Relative: what the tolerances of HiGHS may cost. All other exact solvers are nearer."""

LOSSES = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(-9, 2).map(lambda power: 10.0**power)
)


@st.composite
def problems(draw: st.DrawFn, interacting: bool = False) -> Problem:
    """Small problems of every kind: ties, zeros, losses far apart, schemes that are not legal."""
    rows, schemes = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    shape = rows, schemes

    def array(elements: st.SearchStrategy) -> np.ndarray:
        values = st.lists(elements, min_size=rows * schemes, max_size=rows * schemes)
        return np.array(draw(values)).reshape(shape)

    legal = array(st.booleans())
    legal[np.arange(rows), array(st.integers(0, schemes - 1))[:, 0]] = True
    problem = Problem(
        loss=np.where(legal, array(LOSSES), np.inf),
        bytes=np.where(legal, array(st.integers(1, 60)), 0),
        legal=legal,
        parameters=np.full(rows, 10),
        budget_bytes=0,
    )
    if interacting:
        seed, share = draw(st.integers(0, 2**31)), draw(st.floats(0, 1))
        problem = replace(problem, interactions=interactions(rows, schemes, seed, share))
    hull = Hull.of(problem)
    span = hull.largest_bytes - hull.first_bytes
    return replace(problem, budget_bytes=hull.first_bytes + int(span * draw(st.floats(0, 1.1))))


def interactions(rows: int, schemes: int, seed: int, share: float = 1.0) -> csr_array:
    """Of both signs, a share of them not zero."""
    rng = np.random.default_rng(seed)
    half = np.triu(
        rng.normal(size=(rows * schemes,) * 2) * (rng.random((rows * schemes,) * 2) < share)
    )
    half *= 1 - np.kron(np.eye(rows), np.ones((schemes, schemes)))
    return csr_array(half + half.T)


def synthetic(rows: int, seed: int = 0) -> Problem:
    """As real tables are: the loss falls fourfold a bit, from a scale that is lognormal."""
    rng = np.random.default_rng(seed)
    bits = np.array([2, 3, 4, 5, 6, 8])
    weights = rng.choice([4096, 16384, 24576], rows)
    shape = rows, bits.size
    return Problem(
        loss=rng.lognormal(-4, 1.5, (rows, 1)) * 4.0**-bits * rng.lognormal(0, 0.1, shape),
        bytes=weights[:, None] * bits // 8 + weights[:, None] // 16,
        legal=np.ones(shape, bool),
        parameters=weights,
        budget_bytes=int(weights.sum() * 3.6 / 8),
    )


def brute_force(problem: Problem) -> float:
    """The least loss of all choices that fit."""
    choices = itertools.product(*(np.flatnonzero(row) for row in problem.legal))
    return min(problem.loss_of(each) for each in map(np.array, choices) if problem.fits(each))


def close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=PRECISION, abs_tol=1e-12)


@pytest.mark.parametrize("solver", EVERY)
@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_the_answer_fits_and_its_bound_holds(solver: Solver, problem: Problem) -> None:
    solution = solver(problem, Hull.of(problem))
    best = brute_force(problem)
    assert problem.fits(solution.choice)
    assert solution.loss == problem.loss_of(solution.choice)
    assert solution.bytes == problem.bytes_of(solution.choice)
    assert solution.lower_bound <= solution.loss
    assert solution.lower_bound <= best * (1 + 1e-9)
    assert solution.solver == solver.name
    assert (solution.gap == 0) == (solution.lower_bound == solution.loss)
    if solution.status in (Status.OPTIMAL, Status.UNCONSTRAINED):
        assert solution.gap == 0
        assert close(solution.loss, best)


@pytest.mark.parametrize("solver", JOINT)
@settings(deadline=None, max_examples=20)
@given(problem=problems(interacting=True))
def test_interactions_count(solver: Solver, problem: Problem) -> None:
    solution = solver(problem, Hull.of(problem))
    best = brute_force(problem)
    assert problem.fits(solution.choice)
    assert solution.lower_bound <= best + 1e-9 * abs(best) + 1e-12
    if solver.exact:
        assert close(solution.loss, best)


@pytest.mark.parametrize("solver", EXACT)
@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_exact_is_brute_force_and_more_budget_never_hurts(solver: Solver, problem: Problem) -> None:
    hull = Hull.of(problem)
    solution = solver(problem, hull)
    assert close(solution.loss, brute_force(problem))
    assert solution.gap <= PRECISION
    more = replace(problem, budget_bytes=problem.budget_bytes + 7)
    assert solver(more, hull).loss <= solution.loss * (1 + PRECISION)


@pytest.mark.parametrize("solver", EVERY)
@settings(deadline=None, max_examples=12)
@given(problem=problems(), seed=st.integers(0, 100))
def test_scale_changes_nothing_and_order_not_the_loss(
    solver: Solver, problem: Problem, seed: int
) -> None:
    solution = solver(problem, Hull.of(problem))
    scaled = replace(problem, loss=problem.loss * 2.0**-9)
    assert solver(scaled, Hull.of(scaled)).choice.tolist() == solution.choice.tolist()
    if solver.exact:
        order = np.random.default_rng(seed).permutation(len(problem.loss))
        permuted = replace(
            problem,
            loss=problem.loss[order],
            bytes=problem.bytes[order],
            legal=problem.legal[order],
        )
        assert close(solver(permuted, Hull.of(permuted)).loss, solution.loss)


@pytest.mark.parametrize("solver", JOINT)
def test_order_and_scale_of_interactions(solver: Solver) -> None:
    rows, schemes = 5, 6
    problem = replace(synthetic(rows), interactions=interactions(rows, schemes, 3) * 1e-4)
    solution = solver(problem, Hull.of(problem))
    assert problem.interactions is not None
    scaled = replace(
        problem, loss=problem.loss * 8, interactions=csr_array(problem.interactions * 8)
    )
    assert math.isclose(solver(scaled, Hull.of(scaled)).loss, solution.loss * 8, rel_tol=1e-9)
    order = np.random.default_rng(0).permutation(rows)
    items = (order[:, None] * schemes + np.arange(schemes)).ravel()
    permuted = replace(
        problem,
        loss=problem.loss[order],
        bytes=problem.bytes[order],
        interactions=csr_array(problem.interactions[items][:, items]),
    )
    if solver.exact:
        assert math.isclose(solver(permuted, Hull.of(permuted)).loss, solution.loss, rel_tol=1e-9)


@pytest.mark.parametrize("solver", EVERY)
def test_no_time_at_all_gives_a_plan_and_its_gap(solver: Solver) -> None:
    problem = synthetic(60)
    hull = Hull.of(problem)
    solution = solver(problem, hull, time_limit_s=0)
    assert problem.fits(solution.choice)
    assert 0 < solution.gap < 1
    assert solution.lower_bound == pytest.approx(solution.loss * (1 - solution.gap))
    if solver.exact:
        assert solution.status is Status.TIME_LIMIT
        assert solver(problem, hull).loss <= solution.loss


@pytest.mark.parametrize("solver", JOINT)
def test_no_time_for_interactions(solver: Solver) -> None:
    problem = replace(synthetic(20), interactions=interactions(20, 6, 0, 0.1) * 1e-4)
    solution = solver(problem, Hull.of(problem), time_limit_s=0)
    assert problem.fits(solution.choice)
    assert solution.lower_bound < solution.loss
    assert solution.status is Status.TIME_LIMIT


@pytest.mark.parametrize("solver", EVERY)
def test_the_answer_is_never_worse_than_the_start(solver: Solver) -> None:
    problem = synthetic(60)
    hull = Hull.of(problem)
    best = SOLVERS["dynamic_programming"](problem, hull)
    assert solver(problem, hull, start=best.choice, time_limit_s=1.0).loss == best.loss
    too_large = hull.last()
    assert problem.fits(solver(problem, hull, start=too_large, time_limit_s=1.0).choice)


@pytest.mark.parametrize("solver", EVERY)
def test_the_same_again(solver: Solver) -> None:
    problem = synthetic(30)
    one, other = (solver(problem, Hull.of(problem)) for _ in range(2))
    assert one.choice.tolist() == other.choice.tolist()
    assert (one.loss, one.lower_bound, one.status) == (other.loss, other.lower_bound, other.status)


@pytest.mark.parametrize("solver", EVERY)
def test_too_small_a_budget(solver: Solver) -> None:
    problem = synthetic(9)
    hull = Hull.of(problem)
    with pytest.raises(InfeasibleError, match=f"{hull.first_bytes:,}"):
        solver(replace(problem, budget_bytes=hull.first_bytes - 1), hull)


@pytest.mark.parametrize("solver", EVERY)
def test_a_solver_refuses_what_it_cannot_handle(solver: Solver) -> None:
    problem = replace(synthetic(4), interactions=interactions(4, 6, 0))
    if solver.interactions:
        assert problem.fits(solver(problem, Hull.of(problem), time_limit_s=0).choice)
    else:
        with pytest.raises(InputError, match=f"{solver.name} takes no interactions.*descent"):
            solver(problem, Hull.of(problem))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [[1.0, np.nan], [1.0, 0.5]]}, "Row 0 has a loss that is no number"),
        ({"loss": [[1.0, 0.5], [np.inf, 0.5]]}, "Row 1 has a loss that is no number"),
        ({"loss": [[1.0, 0.5], [-1.0, 0.5]]}, "Row 1 has a loss that is no number from 0 up"),
        ({"bytes": [[4, 8], [4, -8]]}, "Row 1 has a scheme of fewer than 0 bytes"),
        ({"legal": [[True, True], [False, False]]}, "Row 1 has no legal scheme"),
        ({"interactions": np.zeros((3, 3))}, "of shape"),
        ({"interactions": np.triu(np.full((4, 4), 0.1))}, "not symmetric"),
        ({"interactions": np.full((4, 4), 0.1)}, "A row interacts with itself"),
        ({"interactions": np.full((4, 4), np.nan)}, "An interaction is not a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_that_cannot_be_solved(change: dict, message: str) -> None:
    given = {
        "loss": np.array([[1.0, 0.5], [1.0, 0.5]]),
        "bytes": np.array([[4, 8], [4, 8]]),
        "legal": np.ones((2, 2), bool),
    }
    given |= {name: np.array(value) for name, value in change.items()}
    if "interactions" in given:
        given["interactions"] = csr_array(given["interactions"])
    with pytest.raises(TableError, match=message):
        Problem(**given, parameters=np.array([1, 1]), budget_bytes=12)


@pytest.mark.parametrize("sorted_steps", [1, 40])
def test_where_a_budget_is_spent_is_found_without_sorting_all(
    sorted_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = synthetic(60)
    # Equal prices, so that the order among them counts.
    half = np.arange(60) % 30
    problem = replace(problem, loss=problem.loss[half], bytes=problem.bytes[half])
    hull = Hull.of(problem)
    budgets = np.linspace(hull.first_bytes, hull.largest_bytes + 1, 50).astype(int).tolist()
    by_sorting = [hull.within(budget) for budget in budgets]
    monkeypatch.setattr("bitplan.allocator.hull.SORTED", sorted_steps)
    monkeypatch.setattr("bitplan.allocator.hull.SAMPLE", 1)
    for budget, (choice, price) in zip(budgets, by_sorting, strict=True):
        again, same_price = hull.within(budget)
        assert again.tolist() == choice.tolist()
        assert same_price == price
        assert problem.bytes_of(choice) <= budget


def test_convex_side_constraints_are_kept() -> None:
    problem = synthetic(30)
    hull = Hull.of(problem)
    free = SOLVERS["convex"](problem, hull)
    twos = int((free.choice == 0).sum())
    assert twos > 3

    # The norm of a column of zeros and ones is the root of their number.
    limited = relax_and_round(problem, hull, lambda share: [cp.norm(share[:, 0]) <= 3**0.5])
    assert (limited.choice == 0).sum() <= 3
    assert problem.fits(limited.choice)
    assert free.lower_bound <= limited.lower_bound <= limited.loss
    with pytest.raises(InputError, match="No mixture of schemes keeps the side constraints"):
        relax_and_round(problem, hull, lambda share: [cp.sum(share[:, 0]) >= 31])
    with pytest.raises(InputError, match="no choice of one scheme for"):
        relax_and_round(problem, hull, lambda share: [share[0] <= 0.5])


def test_interactions_by_name() -> None:
    problem = replace(
        synthetic(3),
        schemes=tuple(
            map(Scheme.parse, ["int2g64", "int3g64", "int4g64", "int5g64", "int6g64", "int8"])
        ),
        layers=(("a",), ("b", "c"), ("d",)),
    )
    pairs = {(("a", "int2g64"), ("c", "int3g64")): 0.25, (("d", "int8"), ("a", "int2g64")): -0.5}
    joint = replace(problem, interactions=interactions_of(problem, pairs))
    choice = np.array([0, 1, 5])
    assert joint.loss_of(choice) == pytest.approx(problem.loss_of(choice) - 0.25)
    assert joint.loss_of(np.array([1, 1, 5])) == problem.loss_of(np.array([1, 1, 5]))
    with pytest.raises(TableError, match="names e as int8"):
        interactions_of(problem, {(("e", "int8"), ("a", "int8")): 1.0})


def test_auto_knows_interactions() -> None:
    few = replace(synthetic(6), interactions=interactions(6, 6, 0, 0.2))
    many = replace(synthetic(40), interactions=interactions(40, 6, 0, 0.5))
    assert choose_solver(few)[0] == "quadratic"
    name, reason = choose_solver(many)
    assert name == "descent"
    assert "more than the 5,000" in reason

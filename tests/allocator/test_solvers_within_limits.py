"""Every solver that keeps to all limits: against brute force, and against one another."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from bitplan.allocator import SOLVERS, Constraints, Limit, Problem, ReadBytes, Solver, Status, solve
from bitplan.allocator.hull import Hull
from bitplan.allocator.limit import Unit
from bitplan.errors import ConflictError, InfeasibleError, InputError, TimeLimitError

ABLE = [pytest.param(each, id=name) for name, each in SOLVERS.items() if each.limits]
EXACT = [pytest.param(e, id=name) for name, e in SOLVERS.items() if e.limits and e.exact]
UNIT = Unit(noun="steps")
PRECISION = 1e-8
"""Relative: what the tolerances of HiGHS may cost."""
LOSSES = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(-9, 2).map(lambda power: 10.0**power)
)
SCALES = (1, 1000, 10**11)
"""Of amounts: bytes, and the finest steps of time and of bit operations."""


@st.composite
def limited(draw: st.DrawFn) -> Problem:
    """Small problems of two more limits, a most number of schemes, or both; not all can hold."""
    rows, schemes = draw(st.integers(1, 5)), draw(st.integers(1, 4))

    def array(elements: st.SearchStrategy) -> np.ndarray:
        values = st.lists(elements, min_size=rows * schemes, max_size=rows * schemes)
        return np.array(draw(values)).reshape(rows, schemes)

    legal = array(st.booleans())
    legal[np.arange(rows), array(st.integers(0, schemes - 1))[:, 0]] = True

    def amounts() -> tuple[np.ndarray, int]:
        each = np.where(legal, array(st.integers(0, 60)), 0) * draw(st.sampled_from(SCALES))
        least = np.where(legal, each, np.iinfo(np.int64).max).min(axis=1).sum()
        share = draw(st.floats(0, 1.1))
        return each, int(least + share * (each.max(axis=1).sum() - least))

    size, budget_bytes = amounts()
    drawn = [amounts() for _ in range(draw(st.integers(0, 2)))]
    most_schemes = draw(st.integers(1, schemes) if not drawn else st.none() | st.integers(1, 4))
    return Problem(
        loss=np.where(legal, array(LOSSES), np.inf),
        bytes=size,
        legal=legal,
        parameters=np.full(rows, 10),
        budget_bytes=budget_bytes,
        limits=tuple(
            Limit(name=f"limit {index}", amounts=each, most=most, unit=UNIT)
            for index, (each, most) in enumerate(drawn)
        ),
        most_schemes=most_schemes,
    )


def realistic(rows: int, seed: int, most_schemes: int | None = None) -> Problem:
    """Losses fall by four with every bit; two limits that bind beside the bytes."""
    rng = np.random.default_rng(seed)
    bits = np.array([2, 3, 4, 6, 8])
    weights = rng.choice([4096, 16384, 24576], rows)
    size = weights[:, None] * bits // 8
    others = [(size * rng.lognormal(0, 0.5, size.shape)).astype(np.int64) for _ in range(2)]
    return Problem(
        loss=rng.lognormal(-4, 1.5, (rows, 1)) * 4.0**-bits * rng.lognormal(0, 0.2, size.shape),
        bytes=size,
        legal=np.ones(size.shape, bool),
        parameters=weights,
        budget_bytes=int(size[:, 2].sum()),
        limits=tuple(
            Limit(name=f"limit {i}", amounts=each, most=int(np.median(each, 1).sum()), unit=UNIT)
            for i, each in enumerate(others)
        ),
        most_schemes=most_schemes,
    )


def brute_force(problem: Problem) -> float:
    """The least loss of all choices that keep to everything; inf where none does."""
    choices = itertools.product(*(np.flatnonzero(row) for row in problem.legal))
    fitting = (each for each in map(np.array, choices) if problem.fits(each))
    return min(map(problem.loss_of, fitting), default=math.inf)


def test_who_keeps_to_all_limits() -> None:
    assert {name for name, each in SOLVERS.items() if each.limits} == {
        "cp_sat",
        "milp",
        "convex",
        "quadratic",
    }


@pytest.mark.parametrize("solver", ABLE)
@settings(deadline=None, max_examples=60)
@given(problem=limited())
def test_the_answer_keeps_to_all_and_its_bound_holds(solver: Solver, problem: Problem) -> None:
    best = brute_force(problem)
    if best == math.inf:
        with pytest.raises(ConflictError, match=r"Loosen one\."):
            solver(problem, Hull.of(problem))
        return
    solution = solver(problem, Hull.of(problem))
    assert problem.fits(solution.choice)
    assert solution.loss == problem.loss_of(solution.choice)
    assert solution.lower_bound <= best * (1 + 1e-9) + 1e-300
    if solver.exact:
        assert solution.loss <= best * (1 + PRECISION)
    if solution.status is Status.OPTIMAL:
        assert solution.gap == 0
        assert solution.loss <= best * (1 + PRECISION)


@pytest.mark.parametrize("most_schemes", [None, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_they_agree_where_brute_force_is_out_of_reach(seed: int, most_schemes: int | None) -> None:
    problem = realistic(25, seed, most_schemes)
    hull = Hull.of(problem)
    exact = SOLVERS["cp_sat"](problem, hull)
    program = SOLVERS["milp"](problem, hull)
    rounded = SOLVERS["convex"](problem, hull)
    assert exact.status is program.status is Status.OPTIMAL
    assert math.isclose(exact.loss, program.loss, rel_tol=PRECISION)
    assert program.solver == "milp"
    assert rounded.lower_bound <= exact.loss * (1 + 1e-9)
    assert exact.loss <= rounded.loss * (1 + 1e-12)
    assert rounded.gap < 0.5


@pytest.mark.parametrize("solver", ABLE)
def test_the_same_again_and_no_worse_than_the_start(solver: Solver) -> None:
    problem = realistic(12, 0, 3)
    hull = Hull.of(problem)
    one, other = (solver(problem, hull) for _ in range(2))
    assert one.choice.tolist() == other.choice.tolist()
    assert (one.lower_bound, one.status) == (other.lower_bound, other.status)
    best = SOLVERS["cp_sat"](problem, hull)
    assert solver(problem, hull, start=best.choice).loss == best.loss


@pytest.mark.parametrize("solver", EXACT)
def test_more_of_a_limit_never_hurts(solver: Solver) -> None:
    problem = realistic(8, 1, 3)
    hull = Hull.of(problem)
    before = solver(problem, hull).loss
    for step in (1, 500, 20_000):
        more = tuple(replace(one, most=one.most + step) for one in problem.limits)
        after = solver(replace(problem, limits=more), hull).loss
        assert after <= before * (1 + PRECISION)
        before = after
    assert solver(replace(problem, most_schemes=4), hull).loss <= solver(problem, hull).loss


@pytest.mark.parametrize("name", ["milp", "convex"])
def test_no_time_at_all(name: str) -> None:
    problem = realistic(12, 0)
    loose = replace(problem, limits=tuple(replace(o, most=10**6) for o in problem.limits))
    solution = SOLVERS[name](loose, Hull.of(loose), time_limit_s=0)
    assert loose.fits(solution.choice)
    assert solution.lower_bound < solution.loss
    assert solution.status is Status.TIME_LIMIT
    # What is at hand breaks one of two limits that leave little room together.
    amounts = problem.limits[0].amounts
    opposite = Limit(name="opposite", amounts=amounts.max() - amounts, most=0, unit=UNIT)
    middle = int(np.median(amounts, 1).sum())
    narrow = (
        replace(problem.limits[0], most=middle),
        replace(opposite, most=int(amounts.max()) * len(amounts) - middle + 60),
    )
    problem = replace(problem, limits=narrow, budget_bytes=10**9)
    with pytest.raises(TimeLimitError, match="Raise the time limit"):
        SOLVERS[name](problem, Hull.of(problem), time_limit_s=0)
    assert problem.fits(SOLVERS[name](problem, Hull.of(problem)).choice)


def test_a_search_that_the_time_limit_ends_says_so_and_by_how_much() -> None:
    # The loss falls with both amounts alike: far too many choices are nearly the best.
    size, other = np.random.default_rng(0).integers(10**6, 10**7, (2, 40, 6))
    problem = Problem(
        loss=(size.max() - size + other.max() - other) * 1e-7,
        bytes=size,
        legal=np.ones(size.shape, bool),
        parameters=size[:, 0],
        budget_bytes=int(size.mean(axis=1).sum()),
        limits=(Limit(name="other", amounts=other, most=int(other.mean(axis=1).sum()), unit=UNIT),),
    )
    solution = SOLVERS["milp"](problem, Hull.of(problem), time_limit_s=0.5)
    assert solution.status is Status.TIME_LIMIT
    assert 0 < solution.lower_bound < solution.loss
    assert problem.fits(solution.choice)


@pytest.mark.parametrize("name", ["milp", "convex"])
def test_what_is_too_near_to_tell_is_refused(name: str) -> None:
    # One scheme of each of two rows makes the sum, and misses it by a step in 10^14.
    amounts = np.array([[0, 10**14], [0, 10**14 - 1]])
    one = Limit(name="one", amounts=amounts, most=10**14 - 2, unit=UNIT)
    other = Limit(name="other", amounts=amounts.max() - amounts, most=10**14, unit=UNIT)
    problem = Problem(
        loss=np.ones((2, 2)),
        bytes=np.ones((2, 2), np.int64),
        legal=np.ones((2, 2), bool),
        parameters=np.ones(2, np.int64),
        budget_bytes=2,
        limits=(one, other),
    )
    with pytest.raises(ConflictError):
        SOLVERS["cp_sat"](problem, Hull.of(problem))
    with pytest.raises(InputError, match=r"HiGHS cannot tell\. Solve with cp_sat"):
        SOLVERS[name](problem, Hull.of(problem))


@pytest.mark.parametrize("name", ["milp", "convex"])
def test_interactions_within_limits_are_refused(name: str) -> None:
    problem = realistic(2, 0)
    joint = replace(problem, interactions=csr_array(np.kron([[0, 1], [1, 0]], np.ones((5, 5)))))
    with pytest.raises(InputError, match=f"{name} takes no interactions.*Solve it with quadratic,"):
        SOLVERS[name](joint, Hull.of(joint))


@pytest.mark.parametrize("name", ["milp", "convex"])
def test_through_solve_a_conflict_is_explained_and_bytes_come_first(name, tables) -> None:
    table = tables.synthetic(6)
    few = Constraints(most_schemes=1, pins={"a0": "int2g64", "a1": "int8"})
    with pytest.raises(ConflictError, match="Nearest that could: at most 2 schemes"):
        solve(table, tables.budget(table, 0.5), constraints=few, solver=name)
    none = Constraints(limits=(ReadBytes(most=1),))
    with pytest.raises(ConflictError, match="at most 1 bytes read per token"):
        solve(table, tables.budget(table, 0.5), constraints=none, solver=name)
    three = Constraints(most_schemes=3, limits=(ReadBytes(most=40_000),))
    with pytest.raises(InfeasibleError, match="smallest plan needs"):
        solve(table, tables.budget(table, -0.1), constraints=three, solver=name)
    plan = solve(table, tables.budget(table, 0.5), constraints=three, solver=name)
    exact = solve(table, tables.budget(table, 0.5), constraints=three)
    assert plan.solver == name
    assert len(set(plan.schemes.values())) <= 3
    assert exact.predicted_kl <= plan.predicted_kl * (1 + PRECISION)

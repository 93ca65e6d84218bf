"""At most so many schemes within the bytes: the search over sets, and what it begins with."""

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import Problem
from bitplan.allocator.dual import Relaxed
from bitplan.allocator.dynamic_programming import dynamic_programming
from bitplan.allocator.few_schemes import few_schemes
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.scheme_sets import among, best_of_sets
from bitplan.errors import ConflictError

BITS = np.array([2, 3, 4, 5, 6, 8, 16])


def problem_of(rows: int, seed: int, *, share: float, most: int | None = None) -> Problem:
    """Losses fall by four with every bit; a tenth of what there is may not be taken."""
    rng = np.random.default_rng(seed)
    weights = rng.choice([4096, 16384, 24576], rows)
    size = weights[:, None] * BITS // 8
    legal = rng.random(size.shape) > 0.1
    legal[np.arange(rows), rng.integers(0, len(BITS), rows)] = True
    loss = rng.lognormal(-4, 1.5, (rows, 1)) * 4.0**-BITS * rng.lognormal(0, 0.2, size.shape)
    smallest = np.where(legal, size, size.max()).min(axis=1).sum()
    largest = np.where(legal, size, 0).max(axis=1).sum()
    return Problem(
        loss=np.where(legal, loss, np.inf),
        bytes=np.where(legal, size, 0),
        legal=legal,
        parameters=weights,
        budget_bytes=int(smallest + share * (largest - smallest)),
        most_schemes=most,
    )


def sets_of(problem: Problem, most: int) -> list[np.ndarray]:
    columns = np.arange(len(BITS))
    return [np.isin(columns, some) for some in itertools.combinations(columns, most)]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(-0.1, 1.1),
    price=st.floats(0, 1e-3),
    most=st.integers(1, len(BITS)),
)
def test_the_bound_is_that_of_the_hull_wherever_it_begins(seed, share, price, most) -> None:
    problem = problem_of(20, seed, share=share)
    relaxed = Relaxed.of(problem, np.zeros(0))
    for allowed in sets_of(problem, most)[:5]:
        found = relaxed.among(allowed, price=price, enough=math.inf)
        part = among(problem, allowed)
        hull = None if part is None else Hull.of(part)
        if part is None or hull is None or problem.budget_bytes < hull.first_bytes:
            assert found is None
            continue
        expected = Relaxation.of(part, hull).lower_bound
        assert found is not None
        assert part.fits(found.choice)
        # The hull of fewer schemes may know of a coarser step: its budget is rounded down more.
        assert found.bound <= expected * (1 + 1e-9)
        alike = replace(part, budget_bytes=part.budget_bytes + hull.divisor)
        assert found.bound >= Relaxation.of(alike, hull).lower_bound * (1 - 1e-9)
        early = relaxed.among(allowed, price=price, enough=expected / 2)
        assert early is not None
        assert min(expected / 2, found.bound) <= early.bound * (1 + 1e-12)
        assert early.bound <= found.bound * (1 + 1e-12)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_answer_is_the_best_of_all_sets(seed: int, most: int) -> None:
    problem = problem_of(40, seed, share=0.4, most=most)
    parts = [among(problem, allowed) for allowed in sets_of(problem, most)]
    best = math.inf
    for part in parts:
        if part is not None and part.budget_bytes >= Hull.of(part).first_bytes:
            best = min(best, dynamic_programming(part, Hull.of(part)).loss)
    if best == math.inf:
        with pytest.raises(ConflictError, match="Loosen one"):
            best_of_sets(problem, end=time.monotonic() + 60)
        return
    found = best_of_sets(problem, end=time.monotonic() + 60)
    assert found.loss == pytest.approx(best, rel=1e-9)
    assert found.status is Status.OPTIMAL
    late = best_of_sets(problem, end=time.monotonic(), start=found.choice)
    assert late.loss == found.loss
    assert late.lower_bound <= best * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), most=st.integers(1, 5))
def test_no_exchange_of_one_scheme_for_another_is_better(seed: int, most: int) -> None:
    priced = problem_of(12, seed, share=0.5).loss
    chosen = few_schemes(priced, most)
    least = priced[:, chosen].min(axis=1)
    assert np.isfinite(least).all()
    if len(chosen) > most:
        # No set of fewer is reached by leaving out one: a row would have none.
        for column in range(len(chosen)):
            rest = np.delete(chosen, column)
            assert np.isinf(priced[:, rest].min(axis=1)).any()
        return
    for out, into in itertools.product(chosen, np.setdiff1d(np.arange(len(BITS)), chosen)):
        other = np.append(chosen[chosen != out], into)
        assert priced[:, other].min(axis=1).sum() >= least.sum() * (1 - 1e-12)


def test_few_schemes_are_not_those_of_most_rows() -> None:
    """One row's loss may matter more than all the others'."""
    priced = np.array([[0.0, 0.1, 9.0]] * 5 + [[90.0, 90.0, 0.0]])
    assert few_schemes(priced, 2).tolist() == [0, 2]
    assert few_schemes(priced, 1).tolist() == [2]

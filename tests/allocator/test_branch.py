"""The relaxation's fraction decided both ways: bounds hold, and large rows are not missed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import Problem
from bitplan.allocator.branch import branch, forced
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian


@settings(deadline=None, max_examples=100)
@given(data=st.data(), share=st.floats(0, 1))
def test_it_fits_and_its_bound_holds(tables, every_choice, data, share) -> None:
    table = data.draw(tables.any())
    problem = Problem.of(table, tables.budget(table, share).total_bytes)
    choices = every_choice(problem)
    rows = np.arange(choices.shape[1])
    loss = problem.loss[rows, choices].sum(axis=1)
    fits = problem.bytes[rows, choices].sum(axis=1) <= problem.budget_bytes
    start = choices[data.draw(st.integers(0, len(choices) - 1))]
    found = branch(problem, Hull.of(problem), start=start)
    assert problem.fits(found.choice)
    assert found.lower_bound <= loss[fits].min() * (1 + 1e-9)
    if problem.fits(start):
        assert found.loss <= problem.loss_of(start) * (1 + 1e-12)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_forced_hull_is_that_of_the_forced_problem(tables, data) -> None:
    problem = Problem.of(data.draw(tables.any()), 10**6)
    row = data.draw(st.integers(0, len(problem.loss) - 1))
    scheme = data.draw(st.sampled_from(np.flatnonzero(problem.legal[row]).tolist()))
    only, quick = forced(problem, Hull.of(problem), row, scheme)
    slow = Hull.of(only)
    assert only.legal[row].tolist() == [column == scheme for column in range(only.loss.shape[1])]
    for name in ("first", "row", "target", "price", "extra"):
        assert getattr(quick, name).tolist() == getattr(slow, name).tolist()
    assert quick.first_bytes == slow.first_bytes
    for of_row, legal in zip(only.bytes, only.legal, strict=True):
        assert not (np.diff(of_row[legal]) % quick.divisor).any()


def test_a_large_row_is_not_missed(tables) -> None:
    """An embedding as large as all else, where the budget holds it if the others give way."""
    small = tables.synthetic(40).rows
    names = ("int2g64", "int3g64", "int4g64", "int5g64", "int6g64", "int8", "bf16")
    rows = [{str(c.scheme): (c.bytes, c.loss) for c in row.costs} for row in small]
    whole = sum(row["bf16"][0] for row in rows)
    rows.append({names[0]: (whole // 8, 0.05), names[-1]: (whole, 0.0)})
    problem = Problem.of(tables.of(rows), 0)
    hull = Hull.of(problem)
    step = int(np.flatnonzero(hull.path.row == problem.layers.index(("a40",)))[0])
    budget_bytes = int(hull.path.bytes_after[step]) - whole // 10
    problem = Problem.of(tables.of(rows), budget_bytes + 1000)
    quick, plain = branch(problem, hull), lagrangian(problem, hull)
    assert quick.loss < 0.8 * plain.loss
    assert str(problem.schemes[quick.choice[-1]]) in (names[0], names[-1])
    assert quick.gap == pytest.approx((quick.loss - quick.lower_bound) / quick.loss)

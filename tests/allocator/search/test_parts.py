"""The parts of the search: what is near, what is believed, what is an exchange, what is luck."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from bitplan.allocator import AverageBits, Constraints, Problem
from bitplan.allocator.search import surrogate
from bitplan.allocator.search.exchanges import exchanged, exchanges
from bitplan.allocator.search.ledger import Ledger, Spent
from bitplan.allocator.search.paired import difference, falls
from bitplan.allocator.search.surrogate import MAX_ITEMS, Surrogate
from bitplan.allocator.search.trust_region import solve_near
from quadratic_kl import NAMES, QuadraticKL

ROWS = 5


def problem_of(**constraints) -> Problem:
    table = QuadraticKL(ROWS).table()
    return Problem.of(table, 300 * ROWS, constraints=Constraints(**constraints))


def signed(seed: int) -> np.ndarray:
    """Losses of which some are below zero, as changes are."""
    return np.random.default_rng(seed).standard_normal((ROWS, len(NAMES)))


@pytest.mark.parametrize("most_moves", [0, 1, 2, 3, ROWS, None])
@pytest.mark.parametrize("limited", [False, True], ids=["bytes", "limited"])
def test_the_best_plan_within_reach_moves_no_more_rows_than_it_may(most_moves, limited):
    problem = problem_of(limits=(AverageBits(most=30),)) if limited else problem_of()
    around = np.ones(ROWS, int)
    for seed in range(3):
        loss = signed(seed)
        near = solve_near(problem, loss.copy(), around, most_moves)
        moves = int((near != around).sum())
        assert problem.fits(near)
        assert most_moves is None or moves <= most_moves
        gain = problem.at(near, loss).sum()
        within = [
            choice
            for choice in map(np.array, itertools.product(range(len(NAMES)), repeat=ROWS))
            if (choice != around).sum() <= moves and problem.fits(choice)
        ]
        best = min(problem.at(choice, loss).sum() for choice in within)
        # The penalty finds the best of as many moves, but for the gap of the relaxation.
        assert best - 1e-9 <= gain <= best + 1.0
        assert gain <= problem.at(around, loss).sum()


def surrogate_of(problem: Problem) -> Surrogate:
    rows = len(problem.loss)
    return Surrogate.of(problem, (np.arange(rows) % 2, np.arange(rows) // 2))


@pytest.mark.parametrize("apart", [False, True], ids=["dense", "apart"])
def test_what_is_seen_is_believed_as_far_as_it_is_certain(apart, monkeypatch):
    if apart:
        monkeypatch.setattr(surrogate, "MAX_ITEMS", 1)
    problem, around = problem_of(), np.ones(ROWS, int)
    change = np.full(problem.loss.shape, np.nan)
    change[2, 3] = -0.3
    before = surrogate_of(problem).loss()
    for error, share in ((1e-6, 0.9), (1e6, 0.0)):
        belief = surrogate_of(problem)
        belief.see_changes(around, change, np.full(change.shape, error))
        loss = belief.loss()
        moved = (loss[2, 3] - loss[2, 1]) - (before[2, 3] - before[2, 1])
        wanted = -0.3 - (before[2, 3] - before[2, 1])
        assert moved / wanted == pytest.approx(share, abs=0.1)


def test_a_plan_teaches_of_rows_that_it_did_not_change():
    problem, around = problem_of(), np.ones(ROWS, int)
    belief = surrogate_of(problem)
    before = belief.loss()
    choice = around.copy()
    choice[0] = 0
    told = before[0, 0] - before[0, 1]
    belief.see_plan(choice, around, 3 * told, 1e-6)
    after = belief.loss()
    assert after[0, 0] - after[0, 1] > 2 * told
    # Row 2 is of the same kind as row 0.
    assert after[2, 0] - after[2, 1] > 1.1 * (before[2, 0] - before[2, 1])
    belief.see_plan(around, around, 5.0, 0.1)
    np.testing.assert_array_equal(belief.loss(), after)


def test_doubt_comes_back_and_draws_differ():
    problem = problem_of()
    belief = surrogate_of(problem)
    around = np.ones(ROWS, int)
    change = problem.loss - problem.at(around, problem.loss)[:, None]
    belief.see_changes(around, change, np.full(change.shape, 1e-9))
    certain = np.trace(belief.covariance)
    belief.drift(0.5)
    assert np.trace(belief.covariance) > certain
    random = np.random.default_rng(0)
    assert (belief.draw(random) != belief.draw(random)).any()
    assert belief.mean.size < MAX_ITEMS


@pytest.mark.parametrize("jitter", [surrogate.JITTER, -1e-3], ids=["cholesky", "eigenvectors"])
def test_draws_are_of_the_covariance_and_what_is_certain_stays(jitter, monkeypatch):
    monkeypatch.setattr(surrogate, "JITTER", jitter)
    problem, around = problem_of(), np.ones(ROWS, int)
    loss = problem.loss.copy()
    loss[1] = 0.0
    problem = replace(problem, loss=loss)
    belief = surrogate_of(problem)
    change = np.zeros(loss.shape)
    change[3:] = np.nan
    belief.see_changes(around, change, np.zeros(loss.shape))
    random = np.random.default_rng(0)
    drawn = np.array([belief.draw(random) for _ in range(4000)])
    items = drawn[:, belief.index >= 0] - belief.mean
    deviation = np.sqrt(np.maximum(belief.covariance.diagonal(), 0)) + 1e-6
    scale = np.outer(deviation, deviation)
    np.testing.assert_allclose(
        (items.T @ items / len(drawn)) / scale, belief.covariance / scale, atol=0.1
    )
    np.testing.assert_allclose(drawn[:, 1], 0, atol=1e-7)
    # Seen without error to change nothing: equal in every draw, but for the jitter.
    apart = drawn[:, 0] - drawn[:, 0, :1]
    assert np.abs(apart).max() < 1e-3 * problem.loss[0].max()


def test_exchanges_are_ranked_fit_and_share_no_row():
    problem, around = problem_of(), np.ones(ROWS, int)
    for seed in range(5):
        loss = signed(seed)
        found = exchanges(problem, loss, around)
        gains = [one.gain for one in found]
        assert gains == sorted(gains, reverse=True)
        assert all(gain > 0 for gain in gains)
        rows = [row for one in found for row in one.rows]
        assert len(rows) == len(set(rows))
        for count in range(1, len(found) + 1):
            choice = exchanged(around, found[:count])
            assert problem.fits(choice)
            gain = problem.at(around, loss).sum() - problem.at(choice, loss).sum()
            assert gain == pytest.approx(sum(gains[:count]))


def test_luck_is_told_from_progress():
    random = np.random.default_rng(0)
    level = random.lognormal(size=64)
    better = level - 0.01 + 0.01 * random.standard_normal(64)
    assert falls(better, level)  # in pairs, although sequences differ a hundred times as much
    assert not falls(level, better)
    assert not falls(level + 0.1 * random.standard_normal(64), level, errors=3)
    assert not falls(np.full(64, np.inf), level)
    assert difference(np.full(2, np.inf), np.ones(2))[0] == np.inf
    assert falls(np.zeros(1), np.ones(1))


def test_the_ledger_measures_nothing_twice_and_stops_before_it_would_take_too_much():
    model = QuadraticKL(ROWS, sequences=4)
    problem = Problem.of(model.table(), 300 * ROWS)
    ledger = Ledger(problem=problem, evaluator=model, limit=10 * model.tokens_each)
    one, other = np.ones(ROWS, int), np.zeros(ROWS, int)
    first = ledger.kl([one, other, one], [0, 1])
    assert ledger.spent == model.tokens == 4 * model.tokens_each
    np.testing.assert_array_equal(first[0], first[2])
    again = ledger.kl([one, other], [1, 0, 2])
    np.testing.assert_array_equal(again[:, [1, 0]], first[:2])
    assert ledger.left == 4 * model.tokens_each
    with pytest.raises(Spent):
        ledger.slopes(one, [0, 1])
    assert ledger.left == 4 * model.tokens_each
    ledger.kl([one, other], range(4))
    assert ledger.left == 2 * model.tokens_each
    assert ledger.best()[0] is one or ledger.best()[0] is other

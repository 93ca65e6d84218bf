"""Where a search begins: enough that differs, no more than the tokens can bear, always uniform."""

import numpy as np
import pytest

from bitplan.allocator import (
    AverageBits,
    Constraints,
    Problem,
    best_plans,
    ends_high,
    search,
    solve,
    uniform,
)
from bitplan.allocator.search import top_plans as module
from bitplan.allocator.search.proposals import known_choice, most_proposals, proposals
from bitplan.allocator.search.top_plans import DIFFER_BY, top_plans
from bitplan.errors import PlanError
from bitplan.footprint import scheme_bytes
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Row, Scheme
from plans import PROVENANCE
from quadratic_kl import QuadraticKL

LAYERS = 24
BUDGET = Budget(bytes=LAYERS * 300)
NONE = Constraints()


def large_table(rows: int = 211, schemes: int = 24, seed: int = 0) -> CostTable:
    """As many rows and schemes as a real model's, of which many are nearly as good as others."""
    random = np.random.default_rng(seed)
    names = [f"int{b}g{g}{s}" for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128) for s in ("", "s")]
    names += [f"int{b}{s}" for b in (3, 4, 6) for s in ("", "s")]
    found = []
    for index in range(rows):
        shape = ((64, 128), (24, 128), (172, 128), (64, 384))[index % 4]
        size = random.lognormal()
        costs = []
        for name in names[:schemes]:
            scheme = Scheme.parse(name)
            costs.append(
                Cost(
                    scheme=scheme,
                    bytes=scheme_bytes(shape, scheme),
                    loss=float(size * 4.0**-scheme.bits * random.lognormal(0, 0.2)),
                    standard_error=0.0,
                )
            )
        layer = Layer(name=f"layers.{index // 7}.m{index % 7}", kind=Kind.LINEAR, shape=shape)
        found.append(Row(layer=layer, costs=tuple(costs)))
    return CostTable(provenance=PROVENANCE, rest_bytes=0, rows=tuple(found))


def budget_of(table: CostTable, share: float) -> Budget:
    least, most = (
        sum(pick(cost.bytes for cost in row.costs) for row in table.rows) for pick in (min, max)
    )
    return Budget(bytes=int(least + share * (most - least)))


def differ(problem: Problem, one: np.ndarray, other: np.ndarray) -> float:
    return float(problem.parameters[one != other].sum() / problem.parameters.sum())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_top_plans_differ_and_fit_and_lose_little(share):
    table = large_table()
    budget = budget_of(table, share)
    best = solve(table, budget)
    problem = Problem.of(table, budget.total_bytes)
    first = known_choice(problem, best)
    found = top_plans(problem, [first], 2)
    assert len(found) == 2
    every = [first, *found]
    for index, one in enumerate(every):
        assert problem.fits(one)
        assert problem.loss_of(one) < 1.2 * best.predicted_kl
        assert all(differ(problem, one, other) >= DIFFER_BY for other in every[:index])


@pytest.mark.parametrize("seed", range(3))
def test_top_plans_are_nearly_those_that_are_proven(seed):
    table = QuadraticKL(LAYERS, seed=seed).table()
    problem = Problem.of(table, BUDGET.total_bytes)
    found = top_plans(problem, [known_choice(problem, solve(table, BUDGET))], 2)
    proven = best_plans(table, BUDGET, 3, differ_by=DIFFER_BY)
    assert len(found) == 2
    for choice, plan in zip(found, proven[1:], strict=True):
        assert problem.loss_of(choice) < 1.2 * plan.predicted_kl


def test_a_table_too_large_or_too_bound_has_no_top_plans(monkeypatch):
    table = QuadraticKL(LAYERS).table()
    limited = Constraints(limits=(AverageBits(most=2.5),))
    problem = Problem.of(table, BUDGET.total_bytes, constraints=limited)
    first = known_choice(problem, solve(table, BUDGET, constraints=limited))
    assert all(problem.fits(choice) for choice in top_plans(problem, [first], 2))
    pinned = Problem.of(table, BUDGET.total_bytes, constraints=Constraints(pins={"*": "int3g64"}))
    assert top_plans(pinned, [np.ones(LAYERS, int)], 2) == []
    free = Problem.of(table, BUDGET.total_bytes)
    monkeypatch.setattr(module, "MOST_ITEMS", 4 * LAYERS - 1)
    assert top_plans(free, [known_choice(free, solve(table, BUDGET))], 2) == []


@pytest.mark.parametrize("most", [0, 1, 2, 4, 7, 100])
def test_there_are_as_many_proposals_as_may_be_but_uniform_is_always_one(most):
    table = QuadraticKL(LAYERS).table()
    problem, solved = Problem.of(table, BUDGET.total_bytes), solve(table, BUDGET)
    ends = ends_high(table, BUDGET)
    assert ends is not None
    found = proposals(table, problem, [solved], [ends], NONE, most=most)
    same = proposals(table, problem, [solved], [ends], NONE, most=most)
    assert [a.tolist() for a in found] == [b.tolist() for b in same]
    assert len({choice.tobytes() for choice in found}) == len(found)
    assert len(found) <= max(2, most)
    assert (found[0] == known_choice(problem, solved)).all()
    even = {known_choice(problem, plan).tobytes() for plan in uniform(table, BUDGET)}
    assert found[1].tobytes() in even
    if most >= 7:
        assert known_choice(problem, ends).tobytes() in {choice.tobytes() for choice in found}
    if most == 100:
        assert len(found) >= 6


def test_how_many_proposals_there_may_be():
    assert most_proposals(50_000, 2, 256) == 12
    assert most_proposals(4_096, 2, 256) == 1
    assert most_proposals(0, 1, 16) == 0


@pytest.mark.parametrize("method", ["auto", "evopress"])
def test_few_tokens_are_not_spent_on_proposals(method):
    """With as few as can improve anything, what is given is measured, and a uniform plan."""
    model = QuadraticKL(LAYERS)
    table = model.table()
    ends = ends_high(table, BUDGET)
    assert ends is not None
    tokens = 2 * model.sequences * model.tokens_each
    found = search(
        table, [solve(table, BUDGET)], model, tokens=tokens, others=[ends], method=method
    )
    assert found.tokens <= tokens
    assert ends not in found.ranked


@pytest.mark.parametrize("method", ["auto", "evopress"])
def test_a_search_may_be_kept_to_what_it_is_given(method):
    """Else a search that knows no loss is told of the table's best plan."""
    model = QuadraticKL(LAYERS)
    table = model.table()
    even, ends = uniform(table, BUDGET)[0], ends_high(table, BUDGET)
    assert ends is not None
    tokens = 60 * model.sequences * model.tokens_each
    for propose in (True, False):
        found = search(
            table, [even], model, tokens=tokens, others=[ends], method=method, propose=propose
        )
        assert (ends in found.ranked) == propose


def test_what_is_given_is_ranked_by_its_measured_kl():
    model = QuadraticKL(LAYERS, seed=2)
    table = model.table()
    starts = [solve(table, BUDGET), *uniform(table, BUDGET)[:2]]
    ends = ends_high(table, BUDGET)
    assert ends is not None
    found = search(table, starts, model, tokens=60 * 256, others=[ends])
    few = range(model.sequences // 4)
    kl = [model.kl(plan.schemes)[list(few)].mean() for plan in found.ranked]
    assert kl == sorted(kl)
    assert {plan.solver for plan in found.ranked} == {plan.solver for plan in (*starts, ends)}


def test_another_proposal_is_checked_as_a_start_is():
    model = QuadraticKL(LAYERS)
    table = model.table()
    beyond = solve(table, Budget(bytes=LAYERS * 400))
    with pytest.raises(PlanError, match="does not keep to its budget"):
        search(table, [solve(table, BUDGET)], model, tokens=0, others=[beyond])


class TestEndsHigh:
    def test_the_ends_have_more_bits_than_the_middle_which_is_uniform(self):
        table = QuadraticKL(LAYERS).table()
        plan = ends_high(table, BUDGET)
        assert plan is not None
        last = LAYERS // 2 - 1
        bits = {choice.layer.name: choice.scheme.bits for choice in plan.choices}
        ends = {bits[n] for n in bits if int(n.split(".")[1]) in (0, last)}
        middle = {bits[n] for n in bits if int(n.split(".")[1]) not in (0, last)}
        assert len(ends) == len(middle) == 1
        assert ends.pop() > middle.pop()
        assert plan.bytes <= BUDGET.total_bytes

    def test_constraints_hold(self):
        table = QuadraticKL(LAYERS).table()
        constraints = Constraints(pins={"layers.0.q_proj": "int2g64"}, most_schemes=2)
        plan = ends_high(table, BUDGET, constraints=constraints)
        problem = Problem.of(table, BUDGET.total_bytes, constraints=constraints)
        if plan is not None:
            assert problem.fits(known_choice(problem, plan))
        loose = Constraints(pins={"layers.0.q_proj": "int2g64"})
        plan = ends_high(table, BUDGET, constraints=loose)
        assert plan is not None
        assert str(plan.schemes["layers.0.q_proj"]) == "int2g64"

    @pytest.mark.parametrize("layers", [2, 4], ids=["one block", "two blocks"])
    def test_none_without_a_middle(self, layers):
        table = QuadraticKL(layers).table()
        assert ends_high(table, Budget(bytes=layers * 500)) is None

    def test_none_where_nothing_larger_fits(self):
        table = QuadraticKL(LAYERS).table()
        assert ends_high(table, Budget(bytes=LAYERS * 200)) is None

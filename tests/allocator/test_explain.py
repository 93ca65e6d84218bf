"""What a table says of a plan, against all plans there are."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import Explanation, Problem, explain, plan_of, solve
from bitplan.errors import InputError, PlanError
from bitplan.schema import Budget

LONG_S = 60.0


def losses_within(every_choice, problem: Problem, budget_bytes: int) -> tuple:
    """All choices that fit so many bytes, and their losses."""
    choices = every_choice(problem)
    rows = np.arange(choices.shape[1])
    fits = problem.rest_bytes + problem.bytes[rows, choices].sum(axis=1) <= budget_bytes
    return choices[fits], problem.loss[rows, choices[fits]].sum(axis=1)


def check(every_choice, table, plan, found: Explanation, *, exact: bool) -> None:
    problem = Problem.of(table, plan.budget_bytes)
    choices, loss = losses_within(every_choice, problem, plan.budget_bytes)
    assert found.best_kl == pytest.approx(loss.min(), rel=1e-9, abs=0)
    assert found.lower_bound <= loss.min() * (1 + 1e-9)
    columns = {str(scheme): column for column, scheme in enumerate(problem.schemes)}
    for reason in found.reasons:
        row = problem.layers.index(reason.layers)
        other = loss[choices[:, row] != columns[str(reason.scheme)]]
        if reason.runner_up is None:
            assert other.size == 0
            continue
        second = reason.runner_up
        assert second.extra == pytest.approx(
            second.predicted_kl - found.predicted_kl, abs=1e-9 * found.predicted_kl
        )
        slack = 1e-9 * (found.predicted_kl + second.predicted_kl)
        assert second.predicted_kl >= other.min() - slack
        assert found.predicted_kl + second.least_extra <= other.min() + slack
        with_it = loss[choices[:, row] == columns[str(second.scheme)]]
        assert second.predicted_kl >= with_it.min() - slack
        if exact:
            assert second.predicted_kl == pytest.approx(other.min(), abs=slack)
            assert second.extra - second.least_extra <= slack
    for there in found.increments:
        _, there_loss = losses_within(every_choice, problem, plan.budget_bytes + there.more_bytes)
        assert there.predicted_kl == pytest.approx(there_loss.min(), rel=1e-9, abs=0)
        assert there.change * there.more_bytes <= 0


@settings(deadline=None, max_examples=60)
@given(data=st.data(), share=st.floats(0, 1.1), exact=st.booleans())
def test_brute_force(tables, every_choice, data, share, exact) -> None:
    table = data.draw(tables.any(max_rows=4))
    plan = solve(table, tables.budget(table, share), solver="cp_sat")
    found = explain(table, plan, exact=exact, time_limit_s=LONG_S)
    check(every_choice, table, plan, found, exact=exact)
    assert found.predicted_kl == pytest.approx(found.best_kl, rel=1e-9, abs=0)
    assert all(r.runner_up is None or r.runner_up.extra >= 0 for r in found.reasons)
    assert not any("not the table's best" in reason.why for reason in found.reasons)
    assert Explanation.model_validate_json(found.model_dump_json()) == found


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_plan_that_is_not_the_best_is_told_so(tables, every_choice, data) -> None:
    table = data.draw(tables.any(max_rows=4))
    problem = Problem.of(table, 10**9)
    choice = np.array(data.draw(st.sampled_from(every_choice(problem).tolist())))
    size = problem.bytes_of(choice) + table.rest_bytes
    plan = plan_of(
        table, problem.assignment(choice), budget_bytes=size, solver="hand", status="By hand."
    )
    found = explain(table, plan, time_limit_s=LONG_S)
    check(every_choice, table, plan, found, exact=False)
    assert found.predicted_kl == pytest.approx(plan.predicted_kl, rel=1e-12)
    if all(r.runner_up is None or r.runner_up.extra >= 0 for r in found.reasons):
        # No single layer is to blame only where no layer is: the best plan differs in one at least.
        assert found.predicted_kl == pytest.approx(found.best_kl, rel=1e-9, abs=0)


KNOWN = (
    {"int2g64": (10, 5.0), "int4g64": (20, 1.0), "int8": (40, 0.5)},
    {"int2g64": (10, 9.0), "int4g64": (20, 2.0), "int8": (40, 0.0)},
    {"int4g64": (5, 0.25)},
)


def test_known_answer(tables) -> None:
    table = tables.of(KNOWN)
    plan = solve(table, Budget(bytes=1036))
    found = explain(table, plan)
    assert [str(reason.scheme) for reason in found.reasons] == ["int2g64", "int4g64", "int4g64"]
    # The next ten bytes go to a0, and save 4 nats.
    assert found.nats_per_gb == pytest.approx(4 / 10 * 1e9)
    assert (found.predicted_kl, found.bytes, found.budget_bytes) == (7.25, 1035, 1036)
    [up, other] = found.promotions
    assert (up.layers, str(up.to), up.bytes, up.loss) == (("a0",), "int4g64", 10, -4.0)
    assert (other.layers, str(other.to), other.nats_per_gb) == (("a1",), "int8", 0.1e9)
    [down] = found.demotions
    assert (down.layers, str(down.to), down.bytes, down.loss) == (("a1",), "int2g64", -10, 7.0)
    changes = {one.more_bytes: (one.change, sorted(one.schemes)) for one in found.increments}
    assert changes == {10**8: (-6.5, ["a0", "a1"]), 10: (-4.0, ["a0"]), -10: (7.0, ["a1"])}
    a0, a1, a2 = found.reasons
    # With 4 bits for a0, only 2 are left for a1.
    assert (str(a0.runner_up.scheme), a0.runner_up.extra) == ("int4g64", 3.0)
    assert (str(a1.runner_up.scheme), a1.runner_up.extra) == ("int2g64", 3.0)
    assert (a2.runner_up, a2.kept) == (None, None)
    assert a0.why == (
        "int4g64 would save 4 nats for 10 more bytes: 4e+08 nats per GB, no more than the 4e+08 "
        "that a GB is worth at this budget. No scheme is smaller. The best plan with another "
        "scheme here takes int4g64 and loses 3 nats more (41%)."
    )
    assert a1.why.startswith("int8 would save 2 nats for 20 more bytes: 1e+08 nats per GB, no more")
    assert a2.why == "It may take no other scheme."
    json.loads(found.model_dump_json())


def test_a_budget_that_does_not_bind(tables) -> None:
    found = explain(tables.of(KNOWN), solve(tables.of(KNOWN), 1.0))
    assert found.nats_per_gb == 0
    assert found.promotions == ()
    assert [one.change for one in found.increments if one.more_bytes > 0] == [0.0, 0.0]
    assert all(
        reason.why.startswith(("No larger scheme loses less", "It may take no other"))
        for reason in found.reasons
    )


def test_only_the_layers_asked_for(tables) -> None:
    table = tables.synthetic(12, error=0.2)
    plan = solve(table, tables.budget(table, 0.2))
    everything = explain(table, plan)
    some = explain(table, plan, layers="a1*", samples=50, seed=4)
    assert [reason.layers for reason in some.reasons] == [("a1",), ("a10",), ("a11",)]
    assert some.promotions == everything.promotions
    assert len(everything.promotions) == len(everything.demotions) == 5
    assert all(0 <= reason.kept <= 1 for reason in everything.reasons)
    assert explain(table, plan, samples=0).reasons[0].kept is None
    with pytest.raises(InputError, match=r"'b\*' matches no layer. Closest of 12: a"):
        explain(table, plan, layers="b*")


def test_fused_layers_are_one_and_pins_are_no_alternative(tables) -> None:
    table = tables.of([*KNOWN[:2], KNOWN[0]], fuse=["qk", "qk", None])
    pins = {"a2": ["int2g64", "int4g64"]}
    plan = solve(table, Budget(bytes=1055), fuse=True, pins=pins)
    found = explain(table, plan, fuse=True, pins=pins, layers="a[12]")
    assert [reason.layers for reason in found.reasons] == [("a0", "a1"), ("a2",)]
    assert found.reasons[0].loss == 3.0
    assert str(found.reasons[1].runner_up.scheme) == "int4g64"
    with pytest.raises(PlanError, match="may only take int8"):
        explain(table, plan, pins={"a2": "int8"})


def test_the_words_know_what_does_not_fit_and_what_fills_up(tables) -> None:
    # a0 gains most for each byte, but together a1 and a2 gain more from the same room.
    rows = [(30, 8.0), (25, 5.0), (25, 5.0)]
    table = tables.of([{"int2g64": (10, 9.0), "int4g64": (s, 9.0 - gain)} for s, gain in rows])
    a0, a1, _ = explain(table, solve(table, Budget(bytes=1060))).reasons
    assert a0.why.startswith(
        "int4g64 would save 8 nats for 20 more bytes: 4e+08 nats per GB, more than the 3.33e+08 "
        "that a GB is worth at this budget, but it does not fit (bytes left over: 0)."
    )
    assert (str(a1.scheme), a1.runner_up.extra) == ("int4g64", 2.0)
    # Six bytes are too few for a0, so a1 has five of them.
    table = tables.of(
        [
            {"int2g64": (10, 9.0), "int4g64": (30, 1.0)},
            {"int2g64": (10, 1.0), "int4g64": (15, 0.5)},
        ]
    )
    _, a1 = explain(table, solve(table, Budget(bytes=1026))).reasons
    assert "less than a GB is worth, but nothing of more worth fits into these bytes" in a1.why

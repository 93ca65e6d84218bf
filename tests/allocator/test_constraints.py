"""Constraints on small tables: against brute force, and in every plan that is given back."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import (
    AverageBits,
    Constraints,
    Latencies,
    ReadBytes,
    Seconds,
    WeightBytes,
    Workspace,
    check_budget,
    frontier,
    largest_bytes,
    smallest_bytes,
    solve,
    uniform,
)
from bitplan.errors import ConflictError, InfeasibleError
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Plan, Provenance, Row, Scheme

NAMES = ("int2g64", "int3g64", "int4g64", "int8s")
REST = 1000
PROVENANCE = Provenance(
    model="tiny",
    model_digest="m" * 64,
    dtype="bfloat16",
    calibration="text",
    calibration_digest="c",
    calibration_tokens=64,
    estimator="given",
    quantizer="rtn",
    seed=0,
    context=10,
    batch=2,
    versions={"bitplan": "0"},
)
LAYERS = (
    Layer(name="a.q", kind=Kind.LINEAR, shape=(16, 64), fuse="a"),
    Layer(name="a.k", kind=Kind.LINEAR, shape=(16, 64), fuse="a"),
    Layer(name="b.up", kind=Kind.EXPERTS, shape=(2, 8, 64), tokens=0.5),
    Layer(name="b.embed", kind=Kind.EMBEDDING, shape=(32, 32)),
    Layer(name="a.keys", kind=Kind.KEYS, shape=(20, 64)),
)


def table_of(costs: list[dict[str, tuple[int, float]]]) -> CostTable:
    """A table from {scheme: (bytes, loss)} for each of the first layers."""
    return CostTable(
        provenance=PROVENANCE,
        rest_bytes=REST,
        rows=tuple(
            Row(
                layer=layer,
                costs=tuple(
                    Cost(scheme=Scheme.parse(name), bytes=size, loss=loss, standard_error=0.0)
                    for name, (size, loss) in each.items()
                ),
            )
            for layer, each in zip(LAYERS, costs, strict=False)
        ),
    )


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    losses = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(-6, 2).map(lambda p: 10**p))
    costs = st.tuples(st.integers(1, 60), losses)
    row = st.dictionaries(st.sampled_from(NAMES), costs, min_size=2, max_size=4)
    return table_of(draw(st.lists(row, min_size=2, max_size=5)))


TIMES = st.lists(st.integers(0, 40), min_size=4, max_size=4)


@st.composite
def constraints(draw: st.DrawFn, table: CostTable) -> Constraints:
    """A few of all kinds, often tight, sometimes impossible; never one that is an input error."""
    names = [row.layer.name for row in table.rows]
    has = {row.layer.name: [str(cost.scheme) for cost in row.costs] for row in table.rows}
    pinned = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    pins = {n: draw(st.lists(st.sampled_from(has[n]), min_size=1, unique=True)) for n in pinned}
    most = st.integers(0, 250)
    limits = []
    if draw(st.booleans()):
        limits.append(WeightBytes(most=REST + draw(most)))
    if draw(st.booleans()):
        limits.append(ReadBytes(most=draw(most)))
    if draw(st.booleans()):
        limits.append(AverageBits(most=draw(st.floats(0.01, 1.0))))
    if draw(st.booleans()):
        ms = draw(TIMES)
        times = {("*", name): t / 1000 for name, t in zip(NAMES, ms, strict=True)}
        limits.append(Seconds(most=draw(most) / 1000, latencies=Latencies.of(times)))
    if draw(st.booleans()):
        limits.append(Workspace(most=draw(st.sampled_from([0, 64, 1000, 2048, 5000]))))
    return Constraints(
        pins=pins,
        ties=draw(st.lists(st.sampled_from(["a.*", "b.*", ["a.q", "b.*"]]), max_size=1))
        if len(names) > 3
        else (),
        fuse=draw(st.booleans()),
        most_schemes=draw(st.sampled_from([None, None, 1, 2, 3])),
        runtime=draw(st.sampled_from([None, "bitplan"])),
        limits=tuple(limits),
    )


def holds(table: CostTable, given: Constraints, schemes: dict[str, str]) -> bool:
    """Whether an assignment keeps to constraints, told layer by layer and without the solver."""
    costs = {r.layer.name: {str(c.scheme): c for c in r.costs} for r in table.rows}
    layers = {r.layer.name: r.layer for r in table.rows}
    if any(schemes[name] not in menu for name, menu in given.pins.items()):
        return False
    if given.fuse and len({schemes[n] for n in schemes if layers[n].fuse}) > 1:
        return False
    for tie in given.ties:
        prefixes = [p.removesuffix("*") for p in ([tie] if isinstance(tie, str) else tie)]
        if len({s for n, s in schemes.items() if n.startswith(tuple(prefixes))}) > 1:
            return False
    if given.most_schemes is not None and len(set(schemes.values())) > given.most_schemes:
        return False
    size = {n: costs[n][s].bytes for n, s in schemes.items()}
    weights = {n: b for n, b in size.items() if not layers[n].is_cache}
    for limit in given.limits:
        match limit:
            case WeightBytes():
                used = REST + sum(weights.values())
            case AverageBits():
                used = 8 * sum(weights.values()) / sum(layers[n].parameters for n in weights)
            case ReadBytes():
                used = 0
                for n, b in size.items():
                    used += math.ceil(
                        {"b.up": b * 0.5, "b.embed": b / 32, "a.keys": b / 2}.get(n, b)
                    )
            case Seconds():
                times = {str(e.scheme): e.seconds for e in limit.latencies.entries}
                used = sum(round(1000 * times[s]) for s in schemes.values()) / 1000
            case Workspace():
                used = max(map(workspace, schemes, schemes.values()))
        if used > limit.most:
            return False
    return True


def workspace(name: str, scheme: str) -> int:
    """Bytes decoded at once in bfloat16, by hand: int4g64 and int8s linears fit torch's matmuls."""
    if name in ("a.q", "a.k"):
        return 0 if scheme in ("int4g64", "int8s") else 2 * 16 * 64
    return {"b.up": 2 * 8 * 64, "b.embed": 2 * 32, "a.keys": 2 * 20 * 64}[name]


def best_of_all(table: CostTable, budget: int, given: Constraints) -> float | None:
    """The least loss of all assignments that keep to everything; None where there is none."""
    names = [row.layer.name for row in table.rows]
    best = None
    for chosen in itertools.product(*(row.costs for row in table.rows)):
        schemes = {name: str(cost.scheme) for name, cost in zip(names, chosen, strict=True)}
        fits = REST + sum(cost.bytes for cost in chosen) <= budget
        if fits and holds(table, given, schemes):
            loss = math.fsum(cost.loss for cost in chosen)
            best = loss if best is None else min(best, loss)
    return best


def named(plan: Plan) -> dict[str, str]:
    return {name: str(scheme) for name, scheme in plan.schemes.items()}


@settings(deadline=None, max_examples=80)
@given(data=st.data(), table=tables(), share=st.floats(0, 1.1))
def test_brute_force(data: st.DataObject, table: CostTable, share: float) -> None:
    given_ = data.draw(constraints(table))
    low, high = smallest_bytes(table), largest_bytes(table)
    budget = low + int((high - low) * share)
    best = best_of_all(table, budget, given_)
    if best is None:
        with pytest.raises((InfeasibleError, ConflictError)):
            solve(table, Budget(bytes=budget), constraints=given_)
        return
    plan = solve(table, Budget(bytes=budget), constraints=given_)
    assert holds(table, given_, named(plan))
    assert plan.bytes <= budget
    assert plan.predicted_kl == pytest.approx(best, rel=1e-9, abs=0)
    assert plan.lower_bound <= plan.predicted_kl
    assert plan.gap == 0
    check_budget(table, Budget(bytes=budget), constraints=given_)
    for other in uniform(table, Budget(bytes=budget), constraints=given_):
        assert holds(table, given_, named(other))
        assert other.predicted_kl >= best * (1 - 1e-12)
        assert other.lower_bound <= best * (1 + 1e-12)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), table=tables())
def test_every_plan_of_a_frontier_keeps_to_them(data: st.DataObject, table: CostTable) -> None:
    given_ = data.draw(constraints(table))
    unlimited = best_of_all(table, largest_bytes(table), given_)
    if unlimited is None:
        with pytest.raises(ConflictError):
            frontier(table, points=4, constraints=given_)
        return
    plans = frontier(table, points=4, constraints=given_)
    assert all(holds(table, given_, named(plan)) for plan in plans)
    assert plans[-1].predicted_kl == pytest.approx(unlimited, rel=1e-9, abs=0)
    losses = [plan.predicted_kl for plan in plans]
    assert losses == sorted(losses, reverse=True)
    assert plans[0].bytes == plans[0].budget_bytes == smallest_bytes(table, constraints=given_)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), table=tables())
def test_the_nearest_budget_can_and_a_byte_less_cannot(
    data: st.DataObject, table: CostTable
) -> None:
    given_ = data.draw(constraints(table))
    if best_of_all(table, largest_bytes(table), given_) is None:
        with pytest.raises(ConflictError):
            smallest_bytes(table, constraints=given_)
        return
    with pytest.raises(InfeasibleError) as caught:
        solve(table, Budget(bytes=REST), constraints=given_)
    smallest = caught.value.smallest_bytes
    assert best_of_all(table, smallest, given_) is not None
    assert best_of_all(table, smallest - 1, given_) is None
    assert f"the smallest plan needs {smallest:,}" in str(caught.value)
    assert smallest == smallest_bytes(table, constraints=given_)
    assert solve(table, Budget(bytes=smallest), constraints=given_).bytes == smallest
    with pytest.raises(InfeasibleError):
        check_budget(table, Budget(bytes=smallest - 1), constraints=given_)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), table=tables())
def test_a_conflict_cannot_hold_and_could_without_any_one(
    data: st.DataObject, table: CostTable
) -> None:
    given_ = data.draw(constraints(table))
    if best_of_all(table, largest_bytes(table), given_) is not None:
        return
    with pytest.raises(ConflictError) as caught:
        solve(table, Budget(bytes=largest_bytes(table)), constraints=given_)
    conflict = caught.value.conflict
    assert conflict
    assert all(name in str(caught.value) for name in conflict)
    parts = parts_of(given_)
    assert not best_exists(table, [parts[name] for name in conflict])
    for name in conflict:
        assert best_exists(table, [parts[other] for other in conflict if other != name])


def parts_of(given_: Constraints) -> dict[str, Constraints]:
    """Every constraint alone, by the words that a message has for it."""
    parts = {
        f"the pin {n!r} = {'|'.join(s)}": Constraints(pins={n: s}) for n, s in given_.pins.items()
    }
    for tie in given_.ties:
        words = tie if isinstance(tie, str) else "|".join(tie)
        parts[f"the tie {words!r}"] = Constraints(ties=[tie])
    if given_.most_schemes:
        plural = "s" if given_.most_schemes > 1 else ""
        name = f"at most {given_.most_schemes} scheme{plural}"
        parts[name] = Constraints(most_schemes=given_.most_schemes)
    nouns = {
        WeightBytes: "bytes of weights",
        ReadBytes: "bytes read per token",
        AverageBits: "bits per weight on average",
        Seconds: "seconds",
        Workspace: "bytes of workspace",
    }
    for limit in given_.limits:
        most = f"{int(limit.most):,}" if limit.most == int(limit.most) else str(limit.most)
        parts[f"at most {most} {nouns[type(limit)]}"] = Constraints(limits=(limit,))
    return {**parts, "fuse": Constraints(fuse=True)}


def best_exists(table: CostTable, parts: list[Constraints]) -> bool:
    names = [row.layer.name for row in table.rows]
    return any(
        all(holds(table, part, schemes) for part in parts)
        for chosen in itertools.product(*(row.costs for row in table.rows))
        for schemes in [{n: str(c.scheme) for n, c in zip(names, chosen, strict=True)}]
    )

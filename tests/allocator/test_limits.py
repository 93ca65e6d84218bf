"""Each constraint on a table that can be told by hand, what is said of conflicts, and bad input."""

import itertools
import json
import math
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from bitplan.allocator import (
    AbstractResource,
    AverageBits,
    BitOps,
    CacheBytes,
    Constraints,
    Latencies,
    Limit,
    Problem,
    ReadBytes,
    Seconds,
    Status,
    WeightBytes,
    Workspace,
    check_budget,
    choose_solver,
    limited,
    search,
    solve,
    spending,
    uniform,
)
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.limit import Unit
from bitplan.allocator.prices import best_prices, priced_relaxation
from bitplan.errors import (
    BudgetError,
    ConflictError,
    InfeasibleError,
    InputError,
    PlanError,
    SchemeError,
    TableError,
    TimeLimitError,
)
from bitplan.footprint import scheme_bytes
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Plan, Provenance, Row, Scheme

MENU = ("int2g64", "int4g64", "int8s", "bf16")
LOSS = {"int2g64": 1.0, "int4g64": 0.1, "int8s": 0.01, "bf16": 0.0}
REST = 100
LAYERS = (
    Layer(name="embed", kind=Kind.EMBEDDING, shape=(96, 64)),
    Layer(name="0.q", kind=Kind.LINEAR, shape=(64, 64), fuse="0.qk"),
    Layer(name="0.k", kind=Kind.LINEAR, shape=(32, 64), fuse="0.qk"),
    Layer(name="0.experts", kind=Kind.EXPERTS, shape=(4, 32, 64), tokens=0.5),
    Layer(name="0.keys", kind=Kind.KEYS, shape=(200, 64)),
)
SCALE = {"embed": 1.0, "0.q": 5.0, "0.k": 0.5, "0.experts": 2.0, "0.keys": 0.2}


def table_of(layers: tuple[Layer, ...] = LAYERS, digest: str = "m" * 64) -> CostTable:
    provenance = Provenance(
        model="tiny",
        model_digest=digest,
        dtype="bfloat16",
        calibration="text",
        calibration_digest="c",
        calibration_tokens=64,
        estimator="given",
        quantizer="rtn",
        seed=0,
        context=100,
        batch=2,
        versions={},
    )
    rows = tuple(
        Row(
            layer=layer,
            costs=tuple(
                Cost(
                    scheme=Scheme.parse(name),
                    bytes=scheme_bytes(layer.shape, Scheme.parse(name)),
                    loss=LOSS[name] * SCALE.get(layer.name, 1.0),
                    standard_error=0.0,
                )
                for name in MENU
            ),
        )
        for layer in layers
    )
    return CostTable(provenance=provenance, rest_bytes=REST, rows=rows)


WEIGHTS = {layer.name: layer.parameters for layer in LAYERS}
TABLE = table_of()
INT8 = {layer.name: scheme_bytes(layer.shape, Scheme.parse("int8s")) for layer in LAYERS}
INT4 = {layer.name: scheme_bytes(layer.shape, Scheme.parse("int4g64")) for layer in LAYERS}


def named(plan: Plan) -> dict[str, str]:
    return {name: str(scheme) for name, scheme in plan.schemes.items()}


def amounts(limit: AbstractResource, scheme: str) -> dict[str, int]:
    return {name: steps[scheme] for name, steps in limit.amounts(TABLE).items()}


def test_average_bits_are_those_of_the_weights_with_their_scales() -> None:
    weights = sum(layer.parameters for layer in LAYERS if not layer.is_cache)
    plan = solve(TABLE, constraints=Constraints(limits=(AverageBits(most=4.5),)))
    used = sum(choice.bytes for choice in plan.choices if not choice.layer.is_cache)
    assert 8 * used / weights <= 4.5
    # int4g64 has exactly 4.5; the cache is not limited, and so stays as it is.
    uniform4 = {name: "bf16" if name == "0.keys" else "int4g64" for name in named(plan)}
    assert sum(INT4[name] for name in uniform4 if name != "0.keys") * 8 == 4.5 * weights
    assert plan.predicted_kl <= sum(LOSS[s] * SCALE[n] for n, s in uniform4.items())
    assert named(plan)["0.keys"] == "bf16"
    with pytest.raises(
        ConflictError, match=r"at most 2 bits per weight.*Nearest that could: 2\.5 b"
    ):
        solve(TABLE, constraints=Constraints(limits=(AverageBits(most=2),)))
    solve(TABLE, constraints=Constraints(limits=(AverageBits(most=2.5),)))


@pytest.mark.parametrize("constraints", [None, Constraints(floors={"*": 4}, most_schemes=2)])
def test_a_plan_that_nothing_limits_is_refused(constraints) -> None:
    with pytest.raises(BudgetError, match="needs either a budget or a limit"):
        solve(TABLE, constraints=constraints)


def test_weight_and_cache_bytes_are_apart() -> None:
    weights = WeightBytes(most=REST + sum(INT4.values()) - INT4["0.keys"])
    cache = CacheBytes(most=INT8["0.keys"])
    plan = solve(TABLE, 1.0, constraints=Constraints(limits=(weights, cache)))
    assert plan.weight_bytes <= weights.most
    assert plan.cache_bytes <= cache.most
    assert named(plan)["0.keys"] == "int8s"
    message = rf"at most {REST} bytes of weights\. Nearest that could: 6,500 bytes of weights"
    with pytest.raises(ConflictError, match=message):
        solve(TABLE, 1.0, constraints=Constraints(limits=(WeightBytes(most=REST),)))


@pytest.mark.parametrize(
    ("context", "batch", "rows"), [(None, None, 200), (50, 2, 100), (7, 3, 21)]
)
def test_the_cache_may_be_limited_at_a_shorter_context(context, batch, rows) -> None:
    found = amounts(CacheBytes(most=0, context=context, batch=batch), "int4g64")
    assert found == dict.fromkeys(found, 0) | {
        "0.keys": scheme_bytes((rows, 64), Scheme.parse("int4g64"))
    }


def test_the_cache_of_a_context_that_was_not_measured_is_refused() -> None:
    for context, message in ((101, "up to 100. Measure with a context of at least 101"),):
        with pytest.raises(InputError, match=message):
            CacheBytes(most=1, context=context).amounts(TABLE)
    made = TABLE.provenance.model_copy(update={"context": 0})
    with pytest.raises(InputError, match="has no cache"):
        CacheBytes(most=1).unit(TABLE.model_copy(update={"provenance": made}))


def test_bytes_read_for_one_token() -> None:
    assert amounts(ReadBytes(most=0), "int8s") == {
        "embed": INT8["embed"] // 96,  # one row of 96
        "0.q": INT8["0.q"],
        "0.k": INT8["0.k"],
        "0.experts": INT8["0.experts"] // 2,  # half of the tokens reach one
        "0.keys": INT8["0.keys"] // 2,  # of one sequence of two
    }
    tied = LAYERS[0].model_copy(update={"tied": ("lm_head",)})
    found = ReadBytes(most=0).amounts(table_of((tied,)))["embed"]["int8s"]
    assert found == INT8["embed"] + INT8["embed"] // 96  # the head reads it whole


@pytest.mark.parametrize(("activations", "times"), [("dtype", 16), ("weights", 8), (4, 4)])
def test_bit_operations_for_one_token(activations, times) -> None:
    assert amounts(BitOps(most=0, activation_bits=activations), "int8s") == {
        "embed": 0,  # a row is looked up
        "0.q": WEIGHTS["0.q"] * 8 * times,
        "0.k": WEIGHTS["0.k"] * 8 * times,
        "0.experts": WEIGHTS["0.experts"] * 4 * times,  # half of the tokens reach one
        "0.keys": WEIGHTS["0.keys"] * 4 * times,  # of one sequence of two
    }
    tied = LAYERS[0].model_copy(update={"tied": ("lm_head",)})
    limit = BitOps(most=0, activation_bits=activations)
    found = limit.amounts(table_of((tied,)))["embed"]["int8s"]
    assert found == WEIGHTS["embed"] * 8 * times  # the head multiplies by all of it


@pytest.mark.parametrize("bits", [0, 1.5, "half"])
def test_activation_bits_that_are_none(bits) -> None:
    with pytest.raises(InputError, match=f"activations are said to have {bits!r} bits"):
        BitOps(most=1, activation_bits=bits)


def test_workspace_is_what_is_decoded_at_once() -> None:
    assert amounts(Workspace(most=0), "int2g64") == {
        "embed": 2 * 64,
        "0.q": 2 * 64 * 64,
        "0.k": 2 * 32 * 64,
        "0.experts": 2 * 32 * 64,  # one expert
        "0.keys": 2 * 200 * 64,
    }
    assert amounts(Workspace(most=0), "int4g64")["0.q"] == 0
    assert amounts(Workspace(most=0), "bf16") == dict.fromkeys(SCALE, 0)
    long = Layer(name="long", kind=Kind.LINEAR, shape=(5000, 64))
    assert Workspace(most=0).amounts(table_of((long,)))["long"]["int2g64"] == 2 * 4096 * 64
    plan = solve(TABLE, 1.0, constraints=Constraints(limits=(Workspace(most=4096),)))
    assert named(plan)["0.keys"] == "bf16"
    given_ = Constraints(limits=(Workspace(most=127),), pins={"embed": "int8s"})
    message = r"embed has no scheme under at most 127 bytes of workspace, the pin 'embed' = int8s"
    with pytest.raises(ConflictError, match=message):
        solve(TABLE, 1.0, constraints=given_)


TIMES = Latencies.of(
    {
        ("*", "int4g64"): 2e-05,
        ("*", "int8s"): 1e-05,
        ("linear", (64, 64), "int8s"): 7e-05,  # a name, or wildcard, comes before a shape
        ("0.q", "int8s"): 3e-05,
    }
)


def test_seconds_by_a_latency_table() -> None:
    limit = Seconds(most=1.2e-04, latencies=TIMES)
    assert amounts(limit, "int8s") == dict.fromkeys(SCALE, 10**7) | {"0.q": 3 * 10**7}
    plan = solve(TABLE, 1.0, constraints=Constraints(limits=(limit,)))
    # What was not timed is not taken.
    assert set(named(plan).values()) <= {"int4g64", "int8s"}
    tight = Constraints(limits=(Seconds(most=5e-05, latencies=TIMES),))
    with pytest.raises(ConflictError, match=r"at most 5e-05 seconds.*could: 0\.00006 seconds"):
        solve(TABLE, 1.0, constraints=tight)
    exact = Constraints(limits=(Seconds(most=6e-05, latencies=TIMES),))
    assert named(solve(TABLE, 1.0, constraints=exact))["0.q"] == "int4g64"


def test_latencies_from_a_file(tmp_path) -> None:
    file = tmp_path / "times.json"
    file.write_text(json.dumps(json.loads(TIMES.model_dump_json())))
    assert Latencies.load(file) == TIMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the JSON of a latency table"),
        ('{"entries": []}', "entries: Tuple should have at least 1 item"),
        (
            '{"entries": [{"layer": "a", "scheme": "int8s", "seconds": -1}]}',
            "greater than or equal",
        ),
        (
            '{"entries": [{"layer": "a", "scheme": "int8s", "seconds": NaN}]}',
            "seconds: Input should",
        ),
        ('{"entries": [{"layer": "a", "scheme": "int9", "seconds": 1}]}', "'int9' is not a scheme"),
        (
            '{"entries": [{"layer": "a", "scheme": "int8s", "seconds": 1}, '
            '{"layer": "a", "scheme": "int8s", "seconds": 2}]}',
            "the layer 'a' has two times as int8s",
        ),
        (
            '{"entries": [{"scheme": "int8s", "seconds": 1}]}',
            "either a layer, or a kind and a shape",
        ),
        (
            '{"entries": [{"kind": "linear", "scheme": "int8s", "seconds": 1}]}',
            "a kind needs a shape",
        ),
    ],
    ids=["json", "empty", "negative", "nan", "scheme", "twice", "no key", "half a key"],
)
def test_files_that_are_no_latency_table(content, message, tmp_path) -> None:
    file = tmp_path / "times.json"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        Latencies.load(file)


def test_a_latency_table_that_is_not_there_is_named_as_any_file_is(tmp_path):
    with pytest.raises(InputError, match=r"^Cannot read .*missing.json: .* Check the path\.$"):
        Latencies.load(tmp_path / "missing.json")


def test_a_latency_table_of_another_model() -> None:
    other = Latencies.of({("*", "int8s"): 1.0}, model_digest="x" * 64)
    with pytest.raises(TableError, match="timed on another model, of digest xxxxxxxxxxxx"):
        solve(TABLE, 1.0, constraints=Constraints(limits=(Seconds(most=1, latencies=other),)))
    lost = Latencies.of({("9.q", "int8s"): 1.0})
    with pytest.raises(InputError, match=r"layer '9\.q' matches no layer\. Closest of 5: 0\.q"):
        solve(TABLE, 1.0, constraints=Constraints(limits=(Seconds(most=1, latencies=lost),)))
    some = Latencies.of({("linear", (64, 64), "int8s"): 1.0})
    with pytest.raises(TableError, match=r"no time of embed\. Is it of another model"):
        solve(TABLE, 1.0, constraints=Constraints(limits=(Seconds(most=1, latencies=some),)))
    with pytest.raises(InputError, match="has the key"):
        Latencies.of({("a",): 1.0})


def test_floors_and_ceilings_count_scales() -> None:
    given_ = Constraints(
        floors={"*": 4.5, "0.k": "int8s", "0.keys": 2.5}, ceilings={"0.*": "int8s", "embed": 4.5}
    )
    smallest = named(solve(TABLE, Budget(bytes=10**6), constraints=given_))
    assert smallest == {
        "embed": "int4g64",
        "0.q": "int8s",
        "0.k": "int8s",
        "0.experts": "int8s",
        "0.keys": "int8s",
    }
    plan = solve(TABLE, Budget(bytes=REST + 18000), constraints=given_)
    bits = {c.layer.name: 8 * c.bytes / c.layer.parameters for c in plan.choices}
    assert all(bits[name] >= (2.5 if name == "0.keys" else 4.5) for name in bits)
    assert named(plan)["0.k"] == "int8s"
    # A scheme that the table has not got is told by the byte model: 6.5 bits per weight.
    plan = solve(TABLE, 1.0, constraints=Constraints(ceilings={"*": "int6g64"}))
    assert set(named(plan).values()) == {"int4g64"}


@pytest.mark.parametrize(
    ("constraints", "error", "message"),
    [
        (
            {"floors": {"0.z": 4}},
            InputError,
            r"The floor '0\.z' matches no layer\. Closest of 5: 0",
        ),
        ({"ceilings": {"*.up": 4}}, InputError, r"The ceiling '\*\.up' matches no layer"),
        ({"ties": ["*.up"]}, InputError, r"The tie '\*\.up' matches no layer"),
        ({"ties": "*.up"}, InputError, "Give a list of wildcards"),
        ({"pins": {"*.up": "int8s"}}, InputError, "The pin '\\*.up' matches no layer"),
        ({"pins": {"*": ["int8s", "int8s"]}}, SchemeError, "names int8s twice"),
        ({"floors": {"embed": 17}}, SchemeError, r"leaves embed no scheme.*int2g64 \(2\.5\), int4"),
        ({"ceilings": {"embed": "int2s"}}, SchemeError, "leaves embed no scheme"),
        ({"floors": {"embed": math.nan}}, InputError, "is nan bits; it must be above zero"),
        ({"ceilings": {"embed": -2}}, InputError, "is -2 bits; it must be above zero"),
        ({"floors": {"embed": "int9"}}, SchemeError, "'int9' is not a scheme"),
        ({"runtime": "torch-gpu"}, InputError, "no runtime 'torch-gpu'. Choose one of bitplan, t"),
        ({"most_schemes": 0}, InputError, "at most 0 schemes was asked for"),
        ({"most_schemes": 1.5}, InputError, "at most 1.5 schemes was asked for"),
    ],
)
def test_what_cannot_be_used(constraints, error, message) -> None:
    with pytest.raises(error, match=message):
        solve(TABLE, 1.0, constraints=Constraints(**constraints))


@pytest.mark.parametrize("most", [-1, math.nan, math.inf, "4"])
@pytest.mark.parametrize("resource", [AverageBits, ReadBytes, BitOps, CacheBytes, Workspace])
def test_a_limit_that_is_no_number(resource, most) -> None:
    with pytest.raises(InputError, match=f"The limit of {resource.__name__} is"):
        resource(most=most)


@pytest.mark.parametrize("values", [[[-1, 2]], [[0.5, 1.0]], [[math.nan, 1.0]]])
def test_amounts_that_are_none(values) -> None:
    with pytest.raises(InputError, match="must be whole numbers of 0 or more"):
        Limit(name="x", amounts=np.array(values), most=1, unit=Unit(noun="x"))


def test_a_pin_given_twice_is_refused() -> None:
    given_ = Constraints(pins={"0.q": "int8s"})
    assert named(solve(TABLE, 1.0, pins={"0.k": "int2g64"}, constraints=given_))["0.q"] == "int8s"
    with pytest.raises(InputError, match=r"'0\.q' is pinned twice"):
        solve(TABLE, 1.0, pins={"0.q": "int8s"}, constraints=given_)


def test_contradictions_name_those_that_contradict() -> None:
    given_ = Constraints(
        pins={"0.q": "int2g64", "embed": "bf16"},
        floors={"0.*": 4, "embed": 2},
        ties=["0.*"],
        fuse=True,
    )
    with pytest.raises(ConflictError) as caught:
        solve(TABLE, 1.0, constraints=given_)
    assert caught.value.conflict == ("the floor '0.*' = 4", "the pin '0.q' = int2g64")
    assert "0.q has no scheme under" in str(caught.value)
    tied = Constraints(pins={"0.q": "int2g64", "0.k": "int8s"}, ties=[["0.q", "0.k"]], fuse=True)
    with pytest.raises(ConflictError, match=r"0\.k, 0\.q have no scheme in common") as caught:
        solve(TABLE, 1.0, constraints=tied)
    assert "fuse" in caught.value.conflict or "the tie '0.q|0.k'" in caught.value.conflict
    assert len(caught.value.conflict) == 3


def test_limits_that_cannot_hold_together_and_what_could() -> None:
    least = 20 + 4096 * 66 // 64 + (2048 + 8192 / 2 + 6400) * 2.5 / 8  # q in int8s, the rest in 2.5
    limits = (ReadBytes(most=least - 1), AverageBits(most=10), WeightBytes(most=10**5))
    given_ = Constraints(floors={"*.q": 8, "embed": 4}, limits=limits, most_schemes=3)
    with pytest.raises(ConflictError) as caught:
        solve(TABLE, 1.0, constraints=given_)
    read = f"at most {int(least - 1):,} bytes read per token"
    assert caught.value.conflict == (read, "the floor '*.q' = 8")
    # The embedding's floor costs its one row 16 bytes more.
    assert caught.value.nearest == (f"{int(least) + 16:,} bytes read per token",)
    assert f"No plan keeps to {read} and the floor '*.q' = 8 together" in str(caught.value)
    enough = (ReadBytes(most=least + 16), *limits[1:])
    assert (
        solve(TABLE, 1.0, constraints=replace(given_, limits=enough)).status == Status.OPTIMAL.value
    )


def test_the_budget_is_named_with_what_it_cannot_meet() -> None:
    given_ = Constraints(floors={"0.q": 8}, ties=[["embed", "0.q"]], ceilings={"0.keys": 16})
    with pytest.raises(InfeasibleError) as caught:
        solve(TABLE, Budget(bytes=14_000), constraints=given_)
    assert set(caught.value.conflict) == {"the floor '0.q' = 8", "the tie 'embed|0.q'"}
    needs = (
        f"the smallest plan needs {caught.value.smallest_bytes:,} when all is kept to. In its way"
    )
    assert needs in str(caught.value)
    with pytest.raises(InfeasibleError) as caught:
        check_budget(TABLE, Budget(bytes=9_000), constraints=given_)
    assert caught.value.conflict == ()  # no plan at all is so small


def test_one_that_conflicts_alone_is_told_alone() -> None:
    # The pin and the workspace conflict over q; no scheme but bf16 keeps the experts to it at all.
    limits = (Workspace(most=100),)
    given_ = Constraints(pins={"0.q": "int2g64"}, ceilings={"0.experts": 9}, limits=limits)
    floor = replace(given_, pins={"0.k": "int2g64", "0.q": "int8s"}, ceilings={})
    with pytest.raises(ConflictError, match=r"Nearest that could: 4,096 bytes of work") as caught:
        solve(TABLE, 1.0, constraints=floor)
    assert caught.value.conflict == ("at most 100 bytes of workspace", "the pin '0.k' = int2g64")
    some = tuple(row for row in TABLE.rows if row.layer.name in ("0.q", "0.experts"))
    few = TABLE.model_copy(
        update={"rows": tuple(r.model_copy(update={"costs": r.costs[:2]}) for r in some)}
    )
    with pytest.raises(ConflictError, match=r"0\.experts has no scheme under at most 1") as caught:
        solve(few, 1.0, constraints=replace(given_, ceilings={}))
    assert caught.value.conflict == ("at most 100 bytes of workspace",)


def test_of_two_conflicts_one_is_told_with_what_would_solve_it() -> None:
    given_ = Constraints(floors={"*": 8}, limits=(ReadBytes(most=9_000), AverageBits(most=5)))
    with pytest.raises(ConflictError) as caught:
        solve(TABLE, Budget(bytes=10_600), constraints=given_)
    assert caught.value.conflict == ("at most 5 bits per weight on average", "the floor '*' = 8")
    assert caught.value.nearest == ("8.25 bits per weight on average",)


def test_too_few_schemes_name_how_many_could() -> None:
    given_ = Constraints(
        most_schemes=1, pins={"0.q": "int2g64", "0.k": ["int4g64", "int8s"], "embed": "bf16"}
    )
    with pytest.raises(ConflictError, match="Nearest that could: at most 3 schemes") as caught:
        solve(TABLE, 1.0, constraints=given_)
    assert len(caught.value.conflict) == 3
    plan = solve(TABLE, 1.0, constraints=replace(given_, most_schemes=3))
    assert len(set(named(plan).values())) == 3


@pytest.mark.parametrize("most", [1, 2, 3])
def test_at_most_so_many_schemes(most) -> None:
    for size in (12_000, 20_000, 30_000):
        plan = solve(TABLE, Budget(bytes=size), constraints=Constraints(most_schemes=most))
        assert len(set(named(plan).values())) <= most
        assert plan.status == Status.OPTIMAL.value
    free = solve(TABLE, Budget(bytes=20_000))
    assert free.predicted_kl <= plan.predicted_kl or most > 1


def test_a_runtime_has_what_it_can_load() -> None:
    plan = solve(TABLE, 1.0, constraints=Constraints(runtime="torch-cpu", ceilings={"0.q": 8.5}))
    assert named(plan)["0.q"] == "int8s"
    smallest = solve(TABLE, Budget(bytes=10**5), constraints=Constraints(runtime="torch-cpu"))
    assert named(smallest)["0.experts"] == named(smallest)["0.keys"] == "bf16"
    given_ = Constraints(runtime="torch-cpu", pins={"0.experts": "int4g64"})
    with pytest.raises(ConflictError, match=r"under the runtime torch-cpu, the pin '0\.experts'"):
        solve(TABLE, 1.0, constraints=given_)


def test_solvers_that_know_bytes_alone_refuse_and_name_one_that_can() -> None:
    given_ = Constraints(limits=(ReadBytes(most=20_000),), most_schemes=2)
    message = "lagrangian keeps to the bytes alone.*20,000 bytes read per token, at most 2.*cp_sat"
    with pytest.raises(InputError, match=message):
        solve(TABLE, 1.0, constraints=given_, solver="lagrangian")
    problem = Problem.of(TABLE, 10**6, constraints=given_)
    with pytest.raises(InputError, match=message):
        lagrangian(problem, Hull.of(problem))
    assert choose_solver(problem)[0] == "cp_sat"
    # What only narrows the schemes down, or ties rows, every solver keeps to.
    plan = solve(TABLE, 1.0, constraints=Constraints(floors={"*": 8}), solver="lagrangian")
    assert plan.solver == "lagrangian"


def random_problem(rows: int, seed: int) -> Problem:
    """Losses fall by four with every bit; two limits that bind beside the bytes."""
    rng = np.random.default_rng(seed)
    bits = np.array([2, 3, 4, 6, 8])
    weights = rng.choice([4096, 16384, 24576], rows)
    size = weights[:, None] * bits // 8
    limits = tuple(
        Limit(name=f"limit {i}", amounts=each, most=int(np.median(each, axis=1).sum()), unit=UNIT)
        for i, each in enumerate(
            (size * rng.lognormal(0, 0.5, size.shape)).astype(np.int64) for _ in range(2)
        )
    )
    return Problem(
        loss=rng.lognormal(-4, 1.5, (rows, 1)) * 4.0**-bits * rng.lognormal(0, 0.2, size.shape),
        bytes=size,
        legal=np.ones(size.shape, bool),
        parameters=weights,
        budget_bytes=int(size[:, 2].sum()),
        limits=limits,
    )


UNIT = Unit(noun="steps")


@pytest.mark.parametrize("seed", range(4))
def test_limits_agree_with_an_independent_solver(seed) -> None:
    problem = random_problem(25, seed)
    solution = cp_sat(problem, Hull.of(problem))
    assert solution.status is Status.OPTIMAL
    assert problem.fits(solution.choice)
    rows, columns = problem.loss.shape
    sizes = [problem.bytes, *(limit.amounts for limit in problem.limits)]
    most = np.array([problem.budget_bytes, *(limit.most for limit in problem.limits)])
    result = milp(
        100 * problem.loss.ravel() / solution.loss,  # HiGHS stops at an absolute gap of 1e-6
        integrality=np.ones(rows * columns),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(np.kron(np.eye(rows), np.ones(columns)), 1, 1),
            LinearConstraint(np.array([each.ravel() for each in sizes]) / 4096, ub=most / 4096),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert solution.loss == pytest.approx(result.fun * solution.loss / 100, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), scale=st.floats(0, 1e3))
def test_the_bound_and_the_core_hold_at_any_prices(seed, scale) -> None:
    problem = random_problem(6, seed)
    best = cp_sat(problem, Hull.of(problem))
    prices = best_prices(problem, 1.0) * scale
    relaxation = priced_relaxation(problem, prices)
    assert relaxation.lower_bound <= best.loss * (1 + 1e-12)
    core = relaxation.core(best.loss * (1 + 1e-9))
    assert core[np.arange(6), best.choice].all()


def test_the_linear_relaxations_prices_close_most_of_the_gap() -> None:
    problem = random_problem(200, 0)
    best = cp_sat(problem, Hull.of(problem))
    priced = priced_relaxation(problem, best_prices(problem, 1.0)).lower_bound
    bytes_alone = priced_relaxation(problem, np.zeros(2)).lower_bound
    assert best.loss - priced < 0.05 * (best.loss - bytes_alone)


def test_the_time_limit_ends_the_search_with_an_honest_bound() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(10**6, 10**7, (25, 6))
    other = rng.integers(10**6, 10**7, (25, 6))
    problem = Problem(
        loss=(size.max() - size + other.max() - other) * 1e-7,
        bytes=size,
        legal=np.ones(size.shape, bool),
        parameters=size[:, 0],
        budget_bytes=int(size.mean(axis=1).sum()),
        limits=(Limit(name="other", amounts=other, most=int(other.mean(axis=1).sum()), unit=UNIT),),
    )
    solution = cp_sat(problem, Hull.of(problem), time_limit_s=0.3)
    assert solution.status is Status.TIME_LIMIT
    assert 0 < solution.lower_bound <= solution.loss
    assert problem.fits(solution.choice)
    few = replace(problem, most_schemes=2)
    began = time.monotonic()
    solution = cp_sat(few, Hull.of(few), time_limit_s=1.0, start=None)
    assert time.monotonic() - began < 20
    assert len(np.unique(solution.choice)) <= 2
    assert solution.lower_bound <= solution.loss


def test_no_time_to_find_anything_says_so() -> None:
    # An equality of two sums, in effect: what is at hand does not fit.
    rng = np.random.default_rng(0)
    size = rng.integers(10**8, 10**9, (30, 4))
    limits = tuple(
        Limit(name=f"{sign}", amounts=each, most=int(each.mean(axis=1).sum()) + 1, unit=UNIT)
        for sign, each in (("low", size), ("high", size.max() * 2 - size))
    )
    problem = Problem(
        loss=rng.random((30, 4)),
        bytes=np.ones_like(size),
        legal=np.ones(size.shape, bool),
        parameters=size[:, 0],
        budget_bytes=30,
        limits=limits,
    )
    with pytest.raises(TimeLimitError, match="Raise the time limit"):
        cp_sat(problem, Hull.of(problem), time_limit_s=0.01)


class Measured:
    """A model on which the embedding loses a tenth of what the table says."""

    sequences = lessons = 4
    tokens_each = lesson_tokens = 1

    def __init__(self, table: CostTable) -> None:
        self.loss = {row.layer.name: {c.scheme: c.loss for c in row.costs} for row in table.rows}
        self.seen: list[dict[str, Scheme]] = []

    def measure_many(self, assignments, sequences) -> list[np.ndarray]:
        self.seen += map(dict, assignments)
        return [np.full(len(sequences), self._kl(assignment)) for assignment in assignments]

    def slopes(self, assignment, lessons):
        return None

    def _kl(self, assignment) -> float:
        return sum(self.loss[n][s] * (0.1 if n == "embed" else 1) for n, s in assignment.items())


@pytest.mark.parametrize(
    "constraints",
    [
        Constraints(limits=(ReadBytes(most=14_000),)),
        Constraints(most_schemes=2),
        Constraints(limits=(AverageBits(most=5),), floors={"0.k": 4}, ties=[["embed", "0.k"]]),
    ],
    ids=["read", "schemes", "bits"],
)
def test_refined_and_uniform_plans_keep_to_all_limits(constraints) -> None:
    budget = Budget(bytes=17_000)
    start = solve(TABLE, budget, constraints=constraints)
    model = Measured(TABLE)
    found = search(TABLE, [start], model, tokens=100, constraints=constraints)
    problem = Problem.of(TABLE, budget.total_bytes, constraints=constraints)
    uniforms = [plan.schemes for plan in uniform(TABLE, budget, constraints=constraints)]
    for assignment in (found.plan.schemes, *uniforms, *model.seen):
        choice = problem.choice_of(assignment)
        assert choice is not None
        assert problem.fits(choice)
    assert len(model.seen) > 1


def test_uniform_plans_that_break_a_limit_are_left_out() -> None:
    every = uniform(TABLE)
    few = uniform(TABLE, constraints=Constraints(limits=(AverageBits(most=8.3),)))
    assert [plan.solver for plan in few] == [plan.solver for plan in every[1:]]


def test_a_plan_of_another_model_or_beyond_the_limits_is_not_refined() -> None:
    model, plan = Measured(TABLE), solve(TABLE, Budget(bytes=20_000))
    with pytest.raises(PlanError, match="The plan is of tiny, digest mmmmmmmmmmmm, and the cost"):
        search(table_of(digest="x" * 64), [plan], model, tokens=30)
    five = Constraints(limits=(ReadBytes(most=5),))
    with pytest.raises(PlanError, match="does not keep to at most 5 bytes read per token"):
        search(TABLE, [plan], model, tokens=30, constraints=five)
    with pytest.raises(PlanError, match="does not keep to its budget, pins or ties"):
        search(TABLE, [plan], model, tokens=30, pins={"*": "bf16"})


def test_a_limit_beyond_all_numbers_limits_nothing() -> None:
    limits = (AverageBits(most=1e300), ReadBytes(most=10**40))
    plan = solve(TABLE, Budget(bytes=20_000), constraints=Constraints(limits=limits))
    assert plan.schemes == solve(TABLE, Budget(bytes=20_000)).schemes


def test_what_is_spent_is_told_in_the_words_of_the_limits() -> None:
    limits = (AverageBits(most=4.5), ReadBytes(most=20_000), Seconds(most=1, latencies=TIMES))
    given_ = Constraints(limits=limits)
    plan = solve(TABLE, Budget(bytes=10**6), constraints=given_)
    bits, read, seconds = spending(TABLE, plan, given_)
    assert bits == "4.5 of at most 4.5 bits per weight on average"
    assert read.endswith(" of at most 20,000 bytes read per token")
    assert seconds.startswith("0.0000")


@pytest.mark.parametrize(
    ("steps", "shown"),
    [(0, "0"), (500, "4"), (501, "4.01"), (563, "4.51"), (12_500_000, "100,000")],
)
def test_a_unit_rounds_up_and_reads_back(steps, shown) -> None:
    unit = Unit(noun="bits", scale=Fraction(8, 1000), decimals=2)
    assert unit.show(steps) == f"{shown} bits"
    assert unit.steps(float(shown.replace(",", ""))) >= steps
    assert Unit(noun="bytes", rest=7).show(1000) == "1,007 bytes"
    assert Unit(noun="bytes", rest=7).steps(1007) == 1000


@pytest.mark.parametrize("most_schemes", [None, 2])
def test_a_core_that_begins_too_small_grows_until_nothing_better_is_left(
    most_schemes, monkeypatch
) -> None:
    monkeypatch.setattr(limited, "FIRST_ITEMS", 1)
    every = np.array(list(itertools.product(range(4), repeat=6)))  # [choices, rows]
    rows = np.arange(6)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size, other = rng.integers(1, 40, (2, 6, 4))
        problem = Problem(
            # Near to a subset sum: what is best is seldom what is cheapest at any price.
            loss=90.0 - size - other + rng.integers(0, 12, (6, 4)),
            bytes=size,
            legal=np.ones((6, 4), bool),
            parameters=np.ones(6, np.int64),
            budget_bytes=int(np.median(size, axis=1).sum()),
            limits=(
                Limit(name="other", amounts=other, most=int(np.median(other, 1).sum()), unit=UNIT),
            ),
            most_schemes=most_schemes,
        )
        fits = size[rows, every].sum(axis=1) <= problem.budget_bytes
        fits &= other[rows, every].sum(axis=1) <= problem.limits[0].most
        distinct = np.array([len(np.unique(choice)) for choice in every])
        fits &= distinct <= (most_schemes or 4)
        best = problem.loss[rows, every].sum(axis=1)[fits].min(initial=np.inf)
        if best == np.inf:
            with pytest.raises(ConflictError):
                cp_sat(problem, Hull.of(problem))
            continue
        solution = cp_sat(problem, Hull.of(problem))
        assert solution.status is Status.OPTIMAL
        assert solution.loss == best == solution.lower_bound

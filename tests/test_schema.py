"""Files that cross machines: round trips, golden bytes, the published schema, and bad files."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bitplan.allocator import frontier, largest_bytes, solve
from bitplan.errors import BudgetError, InputError, OutputError, PlanError, SchemeError, TableError
from bitplan.schema import (
    FAMILIES,
    FLOAT_BITS,
    Artefact,
    Budget,
    Choice,
    Cost,
    CostTable,
    Domain,
    Evidence,
    Kind,
    Layer,
    Measured,
    Plan,
    Provenance,
    Row,
    Scheme,
    json_schema,
    scheme_names,
)
from bitplan.schema.artefact import digest_of
from costs import table_of

GOLDEN = Path(__file__).parent / "data" / "plan.json"
EMBEDDING = Layer(name="embed", kind=Kind.EMBEDDING, shape=(96, 32), tied=("head",))
EXPERTS = Layer(
    name="layers.0.experts.down_proj",
    kind=Kind.EXPERTS,
    shape=(3, 32, 56),
    block=0,
    fuse="layers.0.experts",
    tokens=0.5,
)
PROVENANCE = Provenance(
    model="owner/tiny – ein Modell",
    model_digest="m" * 64,
    dtype="bfloat16",
    calibration="text.jsonl, 60 documents, seed 0",
    calibration_digest="c" * 64,
    calibration_tokens=640,
    domains=(Domain(name="text.jsonl", documents=60, tokens=640, share=1.0, digest="c" * 64),),
    estimator="gradient_covariance",
    quantizer="gptq",
    seed=0,
    sizes={"calibration": 40, "search": 4, "held_out": 6, "length": 16},
    versions={"bitplan": "0.1.0", "torch": "2.13.0"},
)


def measured(name: str, kl: float) -> Measured:
    return Measured(name=name, bytes=9160, kl=kl, standard_error=0.001, perplexity=13.25)


def make_plan() -> Plan:
    return Plan(
        provenance=PROVENANCE,
        budget_bytes=10_000,
        bytes=9160,
        rest_bytes=1000,
        predicted_kl=0.30000000000000004,
        lower_bound=0.29,
        gap=1 / 3,
        status="Proven optimal.",
        solver="cp_sat",
        evidence=Evidence(
            tokens=96,
            tokens_digest="t" * 64,
            reference_perplexity=12.97,
            plan=measured("refined", 0.125),
            uniform=measured("uniform int4", 0.2),
            others=(measured("solved", 1e-300),),
        ),
        choices=(
            Choice(layer=EMBEDDING, scheme=Scheme.parse("bf16"), bytes=6144, loss=0.0),
            Choice(layer=EXPERTS, scheme=Scheme.parse("int3g32s"), bytes=2016, loss=0.3),
        ),
    )


def make_table() -> CostTable:
    def cost(name: str, size: int, loss: float, *inseparable: str) -> Cost:
        return Cost(
            scheme=Scheme.parse(name),
            bytes=size,
            loss=loss,
            standard_error=loss / 10,
            inseparable=tuple(map(Scheme.parse, inseparable)),
        )

    return CostTable(
        provenance=PROVENANCE,
        rest_bytes=1000,
        rows=(
            Row(
                layer=EMBEDDING,
                costs=(cost("int4", 1920, 0.1, "int5g32s"), cost("bf16", 6144, 0.0)),
            ),
            Row(layer=EXPERTS, costs=(cost("int3g32s", 2016, 5e-324),)),
        ),
    )


ARTEFACTS = {"plan": make_plan, "table": make_table}
both = pytest.mark.parametrize("make", ARTEFACTS.values(), ids=ARTEFACTS)


@both
def test_a_file_says_the_same_when_it_is_read(make, tmp_path):
    artefact = make()
    artefact.save(tmp_path / "deep" / "file.json")
    again = type(artefact).load(tmp_path / "deep" / "file.json")
    assert again == artefact
    assert again.to_json() == artefact.to_json()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.json"]


def test_the_bytes_of_a_plan_are_those_of_the_golden_file(tmp_path):
    """If this fails on purpose, old plans may be misread: see SCHEMA_VERSION."""
    make_plan().save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == GOLDEN.read_bytes()
    assert Plan.load(GOLDEN) == make_plan()


def test_a_plan_from_before_there_were_domains_is_read():
    """It is the golden file of version 0.1.0."""
    old = Plan.load(GOLDEN.with_name("plan-0.1.0.json"))
    assert old.provenance == PROVENANCE.model_copy(update={"domains": ()})
    assert old.provenance.temperature == 1.0
    assert old.choices == make_plan().choices


@both
def test_files_are_as_their_published_schema_says(make):
    artefact = make()
    schema = json.loads(json_schema(type(artefact)))
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    content = json.loads(artefact.to_json())
    checker.validate(content)
    without_evidence = content | {"evidence": None} if "evidence" in content else content
    checker.validate(without_evidence)
    bad: list[dict] = [
        {**content, "extra": 1},
        {key: value for key, value in content.items() if key != "provenance"},
        {**content, "version": 2},
        {**content, "rest_bytes": -1},
        {**content, "digest": 5},
        json.loads(artefact.to_json().replace('"int3g32s"', '"int9"')),
        json.loads(artefact.to_json().replace('"experts"', '"expert"')),
        json.loads(artefact.to_json().replace('"seed": 0', '"seed": "0"')),
    ]
    for change in bad:
        assert list(checker.iter_errors(change)), change


def test_a_cost_names_the_schemes_that_noise_cannot_tell_from_it():
    content = json.loads(make_table().to_json())
    first, second = content["rows"][0]["costs"]
    assert first["inseparable"] == ["int5g32s"]
    assert second["inseparable"] == []
    cost = {"scheme": "int4", "bytes": 1, "loss": 0.5, "standard_error": 0.1}
    assert Cost.model_validate(cost).inseparable == ()
    with pytest.raises(ValidationError, match="'int9' is not a scheme"):
        Cost.model_validate({**cost, "inseparable": ["int9"]})


def test_a_table_from_before_costs_named_such_schemes_is_read():
    content = json.loads(make_table().to_json())
    del content["digest"]
    for row in content["rows"]:
        for cost in row["costs"]:
            del cost["inseparable"]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    content["digest"] = hashlib.sha256(text.encode()).hexdigest()
    found = CostTable.from_json(json.dumps(content))
    assert [cost.inseparable for row in found.rows for cost in row.costs] == [(), (), ()]


def test_published_schemas_are_those_of_the_classes():
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "plan.schema.json").read_text() == json_schema(Plan)
    assert (docs / "costs.schema.json").read_text() == json_schema(CostTable)


def edited(change: Callable[[dict], object]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return edit


def resealed(change: Callable[[dict], object]) -> Callable[[str], str]:
    """Edited by someone who knows how the digest is made."""

    def edit(text: str) -> str:
        content = json.loads(text)
        change(content)
        content.pop("digest")
        return json.dumps(content | {"digest": digest_of(content)})

    return edit


def last_of(content: dict) -> dict:
    return content.get("choices", content.get("rows"))[-1]


TRUNCATED = "may be truncated"
CHANGED = "was changed after bitplan wrote it: its digest does not match.*pins"
UNREADABLE = "that bitplan can read"


@both
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[: len(text) // 2], TRUNCATED),
        (lambda text: text[:-3], TRUNCATED),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), CHANGED),
        (lambda text: text.replace("int3g32s", "int2g32s"), CHANGED),
        (lambda text: "", TRUNCATED),
        (lambda text: text + "}", TRUNCATED),
        (lambda text: "[" * 100_000, TRUNCATED),
        (lambda text: "1" * 5000, TRUNCATED),
        (lambda text: "null", "has no version"),
        (lambda text: "[1, 2]", "has no version"),
        (lambda text: "{}", "has no version"),
        (edited(lambda c: c.update(version=2)), "has schema version 2; .* reads version 1. Update"),
        (edited(lambda c: c.update(version="1")), "has schema version '1'"),
        (edited(lambda c: c.update(version=None)), "has schema version None"),
        (edited(lambda c: c.update(rest_bytes=999)), CHANGED),
        (edited(lambda c: c.pop("digest")), CHANGED),
        (edited(lambda c: c.update(digest="0" * 64)), CHANGED),
        (edited(lambda c: c.update(extra="\ud800")), CHANGED),
        (edited(lambda c: last_of(c)["layer"].update(shape=[3, 32, 57])), CHANGED),
        (edited(lambda c: c.update(rest_bytes=math.nan)), CHANGED),
        (resealed(lambda c: c.update(extra=1)), UNREADABLE),
        (resealed(lambda c: c.pop("provenance")), UNREADABLE),
        (resealed(lambda c: c.update(rest_bytes=math.nan)), UNREADABLE),
        (resealed(lambda c: c.update(rest_bytes=-1)), UNREADABLE),
        (resealed(lambda c: last_of(c)["layer"].update(kind="lstm")), UNREADABLE),
        (resealed(lambda c: last_of(c)["layer"].update(shape=[3])), UNREADABLE),
        (resealed(lambda c: last_of(c)["layer"].update(shape=[3, 0])), UNREADABLE),
    ],
)
def test_a_bad_file_is_refused(make, edit, message, tmp_path):
    artefact: Artefact = make()
    error = PlanError if isinstance(artefact, Plan) else TableError
    path = tmp_path / "file.json"
    path.write_text(edit(artefact.to_json()))
    with pytest.raises(error, match=message) as caught:
        type(artefact).load(path)
    assert type(artefact).__name__ in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_plan_must_add_up():
    broken = resealed(lambda c: c.update(bytes=9161))(make_plan().to_json())
    with pytest.raises(PlanError, match="add up to 9,160 bytes, but it says 9,161"):
        Plan.from_json(broken)
    unknown = resealed(lambda c: last_of(c).update(scheme="int9"))(make_plan().to_json())
    with pytest.raises(PlanError, match="'int9' is not a scheme"):
        Plan.from_json(unknown)


def test_a_plan_tells_weights_and_cache_apart():
    plan = make_plan()
    assert (plan.weight_bytes, plan.cache_bytes) == (9160, 0)
    keys = Layer(name="layers.0.attn.keys", kind=Kind.KEYS, shape=(80, 16), block=0)
    assert keys.is_cache
    assert not EXPERTS.is_cache
    cached = Choice(layer=keys, scheme=Scheme.parse("int8s"), bytes=1440, loss=0.0)
    both = plan.model_copy(update={"choices": (*plan.choices, cached), "bytes": 10_600})
    assert Plan.from_json(both.to_json()) == both
    assert (both.weight_bytes, both.cache_bytes) == (9160, 1440)


def test_a_file_from_before_the_cache_is_read():
    def older(content: dict) -> None:
        del content["provenance"]["context"], content["provenance"]["batch"]

    assert Plan.from_json(resealed(older)(make_plan().to_json())) == make_plan()


def test_a_table_names_each_layer_and_scheme_once():
    twice = resealed(lambda c: c["rows"].append(c["rows"][0]))(make_table().to_json())
    with pytest.raises(TableError, match="a layer has two rows"):
        CostTable.from_json(twice)
    same = resealed(lambda c: c["rows"][0]["costs"].append(c["rows"][0]["costs"][0]))
    with pytest.raises(TableError, match="layer embed lists a scheme twice"):
        CostTable.from_json(same(make_table().to_json()))


def test_one_kind_of_file_is_not_taken_for_the_other(tmp_path):
    make_table().save(tmp_path / "costs.json")
    with pytest.raises(PlanError, match="not a Plan"):
        Plan.load(tmp_path / "costs.json")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_refused(content, tmp_path):
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    message = "is not UTF-8 text" if content else "Cannot read .* No such file"
    with pytest.raises(PlanError, match=message):
        Plan.load(path)
    with pytest.raises(TableError, match=message):
        CostTable.load(path)


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "plan.json").mkdir()
    for path in (tmp_path / "folder" / "plan.json", GOLDEN / "plan.json"):
        with pytest.raises(OutputError, match="Cannot"):
            make_plan().save(path)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["plan.json"]


ALL_SCHEMES = scheme_names()


def test_all_schemes_are_those_of_the_grammar():
    groups = ["g16", "g32", "g64", "g128"]
    integers = [f"int{bits}" for bits in range(2, 9)]
    free = ["sign", "ternary", "fp8", "fp8e5m2", "fp6", "fp6e3m2", "fp4", "nf4", "nf3"]
    free += ["bitmod3", "bitmod4", "binary2", "ternary2"]
    expected = [
        *("bf16", "fp16", "fp32"),
        *("mxfp8", "mxfp8e5m2", "mxfp6", "mxfp6e3m2", "mxfp4", "nvfp4"),
        *(f"bfp{bits}{group}" for bits in range(3, 9) for group in ("", *groups)),
        *(f"{stem}{tail}" for stem in integers for tail in ("", "s")),
        *(f"{stem}{g}{tail}" for stem in integers for g in groups for tail in ("", "s", "d", "sd")),
        *free,
        *(f"{stem}{g}{tail}" for stem in free for g in groups for tail in ("", "d")),
    ]
    assert sorted(scheme_names()) == sorted(expected)


def test_the_json_schema_knows_every_name_and_no_other():
    pattern = json.loads(json_schema(Plan))["$defs"]["Choice"]["properties"]["scheme"]["pattern"]
    for name in ALL_SCHEMES:
        assert re.search(pattern, name)
        for other in (f"{name}x", f"x{name}", f"{name}g", f"{name}dd", f"{name}+"):
            assert not re.search(pattern, other)


def test_none_stores_nothing_and_stands_alone():
    scheme = Scheme.parse("none")
    assert (str(scheme), scheme.bits, scheme.is_none, scheme.is_float) == ("none", 0, True, False)
    pattern = json.loads(json_schema(Plan))["$defs"]["Choice"]["properties"]["scheme"]["pattern"]
    assert re.search(pattern, "none")
    for change in ("2:4", "25%ch", "2%int8", "r16"):
        assert not re.search(pattern, f"none+{change}")
        with pytest.raises(SchemeError, match="none stores no weights"):
            Scheme.parse(f"none+{change}")
    with pytest.raises(SchemeError, match="stores nothing"):
        _ = scheme.family


@pytest.mark.parametrize("name", ALL_SCHEMES)
def test_a_scheme_round_trips_by_its_name(name):
    scheme = Scheme.parse(name)
    assert str(scheme) == name
    assert Scheme.parse(str(scheme)) == scheme
    assert scheme.is_float == (name in FLOAT_BITS)
    assert scheme.is_integer == name.startswith("int")
    if not scheme.is_float:
        assert scheme.bits == FAMILIES[scheme.stem].bits


SPARSITIES = ["2:4", "1:2", "7:8", "1%", "50%", "99%"]


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_every_coded_scheme_may_leave_weights_out(sparsity):
    pattern = json_pattern()
    for name in ALL_SCHEMES:
        if name in FLOAT_BITS:
            continue
        scheme = Scheme.parse(f"{name}+{sparsity}")
        assert str(scheme) == f"{name}+{sparsity}"
        assert str(scheme.sparsity) == sparsity
        assert scheme != Scheme.parse(name)
        assert re.search(pattern, str(scheme))


def json_pattern() -> str:
    return TypeAdapter(Scheme).json_schema()["pattern"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("int4g64+", "'' is no sparsity"),
        ("int4g64+2:3", "'2:3' is no sparsity"),
        ("int4g64+4:4", "'4:4' keeps every weight"),
        ("int4g64+0%", "'0%' is no sparsity"),
        ("int4g64+100%", "'100%' is no sparsity"),
        ("int4g64+2:4+50%", r"int4g64.2:4.50% has 2:4 and 50%. Leave one of them out"),
        ("bf16+2:4", r"bf16.2:4: what follows a . changes how codes are stored.*int8g64.2:4"),
        ("+2:4", "'' is not a scheme"),
    ],
)
def test_sparsities_that_there_are_not(name, why):
    with pytest.raises(SchemeError, match=why):
        Scheme.parse(name)
    assert not re.search(json_pattern(), name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "int9",
        "int1",
        "int4 g64",
        "INT4",
        "4bit",
        "int4g64ss",
        "int04",
        "int4g064",
        "int٤",
        "fp16g64",
    ],
)
def test_what_is_no_scheme_is_told_those_there_are(name):
    with pytest.raises(SchemeError, match=r"Schemes are bf16, .*ternary.*int4g64.*nvfp4"):
        Scheme.parse(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("int4g48", "groups of 48 weights; they may be of 16, 32, 64, 128"),
        ("nf4g1", "groups of 1 weights"),
        ("mxfp4g64", "that of mxfp4 is always 32 weights: write mxfp4"),
        ("nvfp4g16", "that of nvfp4 is always 16"),
        ("fp8g64s", "fp8 has no offset to do without"),
        ("signs", "sign has no offset"),
        ("int4d", "it has not a group"),
        ("nf4d", "it has not a group"),
        ("bfp4g16d", "it has not scales in bfloat16"),
        ("mxfp4d", "it has not scales in bfloat16"),
        ("nvfp4d", "it has not scales in bfloat16"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_by_name(name, why):
    with pytest.raises(SchemeError, match=why):
        Scheme.parse(name)


@given(
    st.one_of(
        st.text(max_size=12),
        st.from_regex(r"(int\d{1,3}|[a-z]{2,5}\d?(e\dm\d)?)(g\d{0,4})?s?x?"),
        st.builds(
            "".join,
            st.lists(st.sampled_from(["mx", "nv", "fp", "nf", "bfp", "4", "8", "g", "16", "s"])),
        ),
    )
)
def test_any_other_name_is_no_scheme(name):
    if name in (*ALL_SCHEMES, "none"):
        return
    with pytest.raises(SchemeError):
        Scheme.parse(name)


@given(st.integers(min_value=1, max_value=2**63), st.floats(min_value=1e-9, max_value=1e6))
def test_a_budget_is_whole_bytes(size, gb):
    assert Budget(bytes=size).total_bytes == size
    assert Budget(gb=gb).total_bytes == pytest.approx(gb * 1e9, rel=1e-9, abs=1)
    assert Budget.of(Budget(gb=gb)) == Budget.of(gb) == Budget(gb=gb)


@pytest.mark.parametrize("gb", [0.065, 4.5, 0.1, 0.3, 1e-9, 7.7])
def test_a_budget_in_gigabytes_does_not_lose_a_byte_to_rounding(gb):
    assert Budget(gb=gb).total_bytes == round(gb * 1e9)


@pytest.mark.parametrize("amount", [0, -1, math.nan, math.inf, -math.inf, 1e300, "4", None, [4]])
def test_a_budget_that_is_no_number_above_zero_is_refused(amount):
    with pytest.raises(BudgetError, match=r"must be a number|needs either"):
        Budget(gb=amount)
    with pytest.raises(BudgetError):
        Budget.of(amount)
    with pytest.raises(BudgetError):
        Budget(gb=1.0, bytes=5)
    with pytest.raises(BudgetError):
        Budget()


def test_records_are_frozen_and_know_their_fields():
    plan = make_plan()
    with pytest.raises(ValidationError):
        plan.bytes = 5  # type: ignore[misc]
    with pytest.raises((ValidationError, InputError)):
        Layer(name="a", kind=Kind.LINEAR, shape=(2, 2), colour="red")  # type: ignore[call-arg]
    assert plan.schemes == {
        "embed": Scheme.parse("bf16"),
        "layers.0.experts.down_proj": Scheme.parse("int3g32s"),
    }
    assert EXPERTS.parameters == 3 * 32 * 56
    for loss in (math.nan, math.inf, -1e-9):
        with pytest.raises(ValidationError):
            Cost(scheme=Scheme.parse("bf16"), bytes=1, loss=loss, standard_error=0.0)


def test_what_is_large_prints_on_a_line():
    table = table_of(blocks=8)
    plan = solve(table, Budget(bytes=largest_bytes(table)))
    curve = frontier(table, points=None)
    for one in (table, plan, curve):
        assert repr(one).startswith(type(one).__name__)
        assert len(repr(one)) < 700
    assert f"layers={len(table.rows)}" in repr(table)
    assert f"bytes={plan.bytes}" in repr(plan)

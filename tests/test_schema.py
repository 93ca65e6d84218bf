"""Names, budgets, and the files of plans and tables: exact bytes, and what is refused."""

import json
import math
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from bitplan.errors import BudgetError, InputError, PlanError, SchemeError, TableError
from bitplan.schema import (
    GROUP_SIZES,
    INT_BITS,
    Budget,
    Choice,
    Cost,
    CostTable,
    Evidence,
    Kind,
    Layer,
    Measured,
    Plan,
    Provenance,
    Row,
    Scheme,
    json_schema,
)

GOLDEN = Path(__file__).parent / "data" / "plan.json"
NAMES = [
    f"int{bits}{group}{symmetric}"
    for bits in INT_BITS
    for group in ("", *(f"g{size}" for size in GROUP_SIZES))
    for symmetric in ("", "s")
] + ["bf16", "fp16", "fp32"]
PROVENANCE = Provenance(
    model="tiny",
    model_digest="m" * 64,
    dtype="bfloat16",
    calibration="text.jsonl, 12 documents, seed 0",
    calibration_digest="c" * 64,
    calibration_tokens=8192,
    estimator="gradient_covariance",
    quantizer="gptq",
    seed=0,
    sizes={"calibration": 32, "search": 8, "held_out": 16, "length": 256},
    versions={"bitplan": "0.1.0", "torch": "2.13.0"},
)
EMBEDDING = Layer(
    name="model.embed_tokens", kind=Kind.EMBEDDING, shape=(512, 64), tied=("lm_head",)
)
EXPERTS = Layer(name="model.layers.0.mlp.experts.down_proj", kind=Kind.EXPERTS, shape=(4, 64, 96))


def measured(name: str, kl: float) -> Measured:
    return Measured(name=name, bytes=35_008, kl=kl, standard_error=0.01, perplexity=20.5)


def plan() -> Plan:
    choices = (
        Choice(layer=EMBEDDING, scheme=Scheme.parse("int4g64"), bytes=18_432, loss=0.125),
        Choice(layer=EXPERTS, scheme=Scheme.parse("int5g32s"), bytes=16_576, loss=1e-9),
    )
    return Plan(
        provenance=PROVENANCE,
        budget_bytes=36_000,
        bytes=35_108,
        rest_bytes=100,
        predicted_kl=0.125000001,
        lower_bound=0.125,
        gap=8e-9,
        status="Optimal – proven.",
        solver="cp_sat",
        evidence=Evidence(
            tokens=4096,
            tokens_digest="h" * 64,
            reference_perplexity=15.25,
            plan=measured("solved", 0.25),
            uniform=measured("uniform int4g64", 0.5),
        ),
        choices=choices,
    )


def table() -> CostTable:
    costs = tuple(
        Cost(scheme=Scheme.parse(name), bytes=size, loss=loss, standard_error=0.0)
        for name, size, loss in (("int2g64", 10, 0.5), ("bf16", 80, 0.0))
    )
    return CostTable(provenance=PROVENANCE, rest_bytes=7, rows=(Row(layer=EMBEDDING, costs=costs),))


@pytest.mark.parametrize("name", NAMES)
def test_scheme_names_round_trip(name):
    assert str(Scheme.parse(name)) == name


@pytest.mark.parametrize("name", ["", "int7", "int4g48", "int4 g64", "INT4", "4bit", "int4g64ss"])
def test_unknown_schemes_are_named(name):
    with pytest.raises(SchemeError, match=r"Schemes are|groups of"):
        Scheme.parse(name)


@pytest.mark.parametrize("gb", [0, -1, -0.5, math.nan, math.inf, -math.inf, "4", None])
def test_bad_budgets_are_refused(gb):
    with pytest.raises(BudgetError):
        Budget(gb=gb)


def test_a_budget_is_decimal_and_one_of_two():
    assert Budget(gb=0.07).total_bytes == 70_000_000
    assert Budget(gb=1e-9).total_bytes == 1
    assert Budget(bytes=123).total_bytes == 123
    with pytest.raises(BudgetError, match="Give one"):
        Budget(gb=1.0, bytes=1)
    with pytest.raises(BudgetError):
        Budget(bytes=0)


def test_a_plan_file_has_these_exact_bytes(tmp_path):
    plan().save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == GOLDEN.read_bytes()
    assert Plan.load(GOLDEN) == plan()


@pytest.mark.parametrize("record", [plan(), table()], ids=["plan", "table"])
def test_files_round_trip_and_fit_their_json_schema(record, tmp_path):
    record.save(tmp_path / "file.json")
    loaded = type(record).load(tmp_path / "file.json")
    assert loaded == record
    assert loaded.to_json() == record.to_json()
    schema = json.loads(json_schema(type(record)))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(record.to_json()))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share, tmp_path):
    text = plan().to_json()
    (tmp_path / "plan.json").write_text(text[: int(len(text) * share)])
    with pytest.raises(PlanError, match=r"plan\.json: .*truncated"):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [("int4g64", "int3g64"), ("18432", "18431"), ("0.125", "0.0"), ('"cp_sat"', '"mine"')],
)
def test_an_edited_plan_is_refused_and_pins_are_named(old, new):
    with pytest.raises(PlanError, match=r"changed after bitplan wrote it.*pins"):
        Plan.from_json(plan().to_json().replace(old, new, 1))


def test_a_newer_schema_version_is_refused():
    text = plan().to_json().replace('"version": 1', '"version": 2')
    with pytest.raises(PlanError, match=r"version 2.*Update bitplan"):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"plan"', "{}", '{"name": "x"}'])
def test_other_json_is_refused(text):
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_a_table_is_no_plan_and_no_file_is_no_file(tmp_path):
    with pytest.raises(PlanError, match="not a Plan"):
        Plan.from_json(table().to_json())
    with pytest.raises(TableError, match="not a CostTable"):
        CostTable.from_json(plan().to_json())
    with pytest.raises(InputError, match="Cannot read"):
        Plan.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        Plan.load(tmp_path / "binary.json")


def test_records_keep_their_own_sums():
    content = plan().model_dump()
    with pytest.raises(ValueError, match="add up to"):
        Plan.model_validate(content | {"bytes": 1})
    row = table().rows[0]
    with pytest.raises(ValueError, match="lists a scheme twice"):
        Row(layer=row.layer, costs=row.costs * 2)
    with pytest.raises(ValueError, match="two rows"):
        CostTable(provenance=PROVENANCE, rest_bytes=0, rows=(row, row))
    with pytest.raises(ValueError, match="finite"):
        Cost(scheme=Scheme.parse("bf16"), bytes=1, loss=math.nan, standard_error=0.0)

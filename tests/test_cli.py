"""Each verb as a user calls it: what it prints and where, its exit code, and what it refuses."""

import importlib.metadata
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bitplan import CostTable, Plan, describe, names
from bitplan.allocator import PRESETS, SOLVERS
from bitplan.apply import held_bytes
from bitplan.cli import main
from bitplan.cli.measuring import names_of
from bitplan.compress import QUANTIZERS
from bitplan.effort import EFFORTS
from bitplan.export import load, load_plan

NAMES = ["llama-tied", "gpt2", "mixtral"]
SIZES = ["--sequences", "12", "--length", "16"]


@dataclass(frozen=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What `main` sets for a process of its own."""
    root = logging.getLogger()
    handlers, handler = root.handlers[:], signal.getsignal(signal.SIGINT)
    yield
    root.handlers[:] = handlers
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def bitplan(tmp_path, monkeypatch, capsys) -> Callable[..., Said]:
    """The command in this process, with a folder of its own to work and write in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["bitplan", *map(str, arguments)])
        logging.getLogger().handlers.clear()  # each process begins without
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return Said(code=int(stop.value.code or 0), out=said.out, err=said.err)

    return call


def good(said: Said) -> Said:
    assert said.code == 0, said.err
    return said


def refused(said: Said, *messages: str) -> None:
    """Bad input: one line on standard error, nothing on standard output."""
    assert said.code == 2, said.err
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1
    for message in messages:
        assert message in said.err


def budget_of(folder: Path, share: float = 0.3) -> str:
    from bitplan.models import load_model

    found = describe(load_model(folder))
    size = found.smallest_bytes + share * (found.bytes - found.smallest_bytes)
    return f"{size / 1e9:.9f}"


def test_the_version(bitplan):
    expected = importlib.metadata.version("bitplan")
    assert good(bitplan("--version")).out == f"bitplan {expected}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("describe models/lama", "There is no folder or file"),
        ("measure models/lama", "There is no folder or file"),
        ("measure models/llama --out models", "models is a folder"),
        ("allocate models/llama", "Nothing says how small"),
        ("allocate models/llama --budget-gb 0", "The budget is 0.0 GB"),
        ("allocate models/llama --budget-gb 1e300", "more bytes than can be counted"),
        ("allocate models/lama --budget-gb 1", "There is no folder or file"),
        ("allocate models/llama --budget-gb 1 --start none.json", "Cannot read none.json"),
        ("allocate models/llama --budget-gb 1 --table models", "models is a folder"),
        ("measure models/llama --calibration none.txt:0.5", "no calibration file 'none.txt'"),
        ("measure models/llama --schemes int4,int9", "'int9' is not a scheme"),
        ("measure models/llama --measured int9", "'int9' is not a scheme"),
        ("measure models/llama --cache-schemes int9", "'int9' is not a scheme"),
        ("measure models/llama --effort much", "There is no effort 'much'"),
        ("measure models/llama --dtype int8", "'int8' is not a dtype"),
        ("allocate models/llama --budget-gb 1 --calibration none", "no calibration file 'none'"),
        ("allocate models/llama --budget-gb 1 --quantizer awq", "There is no quantizer 'awq'"),
        ("allocate models/llama --budget-gb 1 --transform spin", "There is no transform 'spin'"),
        ("allocate models/llama --budget-gb 1 --through it", "no way through a model named 'it'"),
        ("allocate models/llama --budget-gb 1 --experts all", "experts is 'all'. Choose together"),
        ("describe models/llama --experts all", "experts is 'all'. Choose together"),
        ("allocate models/llama --budget-gb 1 --solver luck", "There is no solver 'luck'"),
        ("allocate models/llama --budget-gb 1 --preset hawq", "There is no preset 'hawq'"),
        ("allocate models/llama --budget-gb 1 --search luck", "There is no search 'luck'"),
        ("apply models/llama plan.json --out small --effort much", "There is no effort 'much'"),
        ("apply models/llama plan.json --out small --calibration none", "no calibration file"),
        ("describe models/llama --dtype int8", "'int8' is not a dtype"),
        ("evaluate models/llama --text text.txt --dtype int8", "'int8' is not a dtype"),
        ("apply models/llama none.json --out small", "Cannot read none.json"),
        ("apply models/lama none.json --out small", "There is no folder or file"),
        ("evaluate models/llama --text none.txt", "Cannot read none.txt"),
        ("evaluate models/lama --text text.txt", "There is no folder or file"),
        ("evaluate models/llama --reference models/lama --text text.txt", "no folder or file"),
    ],
)
def test_slips_are_refused_before_torch_is_imported(arguments, message, tmp_path, tiny_folder):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama").symlink_to(tiny_folder("llama-tied"))
    (tmp_path / "text.txt").touch()
    code = f"""
import sys
from bitplan.cli import main
sys.argv = ["bitplan", *{arguments.split()!r}]
try:
    main()
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == "False\n"


def test_allocate_keeps_the_table_that_explain_reads(bitplan, tiny_folder, tmp_path):
    folder = tmp_path / "my models" / "tiny[v2]"
    shutil.copytree(tiny_folder("llama-tied"), folder)
    allocate = ("allocate", folder, *SIZES, "--budget-gb", budget_of(folder), "--no-verify")
    said = good(bitplan(*allocate))
    assert "Plan for tiny[v2]" in said.out
    assert f"Next: bitplan apply '{folder}' plan.json --out DIR\n" in said.out
    refused(bitplan("explain", "plan.json"), "no cost table costs.json", "--table")
    refused(bitplan("explain", "none.json"), "Cannot read none.json")
    good(bitplan(*allocate, "--table", "costs.json"))
    explained = good(bitplan("explain", "plan.json", "--json")).json
    assert explained["bytes"] == Plan.load("plan.json").bytes


def test_apply_tunes_and_says_what_that_did(bitplan, tiny_folder):
    folder = tiny_folder("llama-tied")
    good(bitplan("allocate", folder, *SIZES, "--budget-gb", budget_of(folder), "--no-verify"))
    apply = ("apply", folder, "plan.json", "--out", "small", "--tune-epochs", 1)
    tuning = good(bitplan(*apply, "--json")).json["tuning"]
    assert tuning["steps"] == 3
    said = good(bitplan(*apply)).out
    assert f"Tuned in 3 steps: KL on {tuning['tokens']} held-out tokens " in said
    assert f"{tuning['kl_before']:.4f} -> {tuning['kl_after']:.4f} nats per token, " in said
    said = bitplan(*apply[:-1], -1)
    assert said.code == 2
    assert "--tune-epochs" in said.err


def test_apply_trains_blocks_and_says_what_that_did(bitplan, tiny_folder):
    folder = tiny_folder("llama-tied")
    good(bitplan("allocate", folder, *SIZES, "--budget-gb", budget_of(folder), "--no-verify"))
    apply = ("apply", folder, "plan.json", "--out", "small", "--block-epochs", 2)
    told = good(bitplan(*apply, "--json")).json
    assert "tuning" not in told
    blocks = told["blocks"]
    said = " ".join(good(bitplan(*apply)).out.split())  # lines are as long as the terminal
    assert f"Trained {blocks['bettered']} of {blocks['windows']} blocks: " in said
    assert f"{blocks['error_before']:.4f} -> {blocks['error_after']:.4f} of its output" in said
    assert f"perplexity {blocks['perplexity']:.2f}." in said
    refused = bitplan(*apply, "--block-window", 0)
    assert refused.code == 2
    assert "--block-window" in refused.err


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_path(name, bitplan, tiny_folder, tiny_tokenizer, tmp_path):
    folder = tiny_folder(name)
    described = good(bitplan("describe", folder, "--json"))
    assert described.json["name"] == f"tiny-{name}"
    assert described.err == ""
    assert "tiny-" in good(bitplan("describe", folder)).out

    measured = good(bitplan("measure", folder, *SIZES, "--json"))
    assert CostTable.from_json(measured.out) == CostTable.load("costs.json")
    assert measured.err == ""

    budget = budget_of(folder)
    solved = good(
        bitplan("solve", "costs.json", "--budget-gb", budget, "--json", "--out", "s.json")
    )
    assert Plan.from_json(solved.out) == Plan.load("s.json")
    plans = good(bitplan("frontier", "costs.json", "--points", 4, "--json")).json
    assert len(plans) == 4
    assert Plan.from_json(json.dumps(plans[0])).bytes < Plan.from_json(json.dumps(plans[3])).bytes
    nested = good(bitplan("frontier", "costs.json", "--points", 4, "--nested", "--json")).json
    assert all(plan["status"].startswith("Nested: ") for plan in nested)
    assert "that costs" in good(bitplan("frontier", "costs.json", "--nested")).out
    curve = good(bitplan("frontier", "costs.json", "--every", "--json")).json
    assert curve["bytes"][0] == plans[0]["bytes"]
    assert f"{curve['bytes'][-1]:,}" in good(bitplan("frontier", "costs.json", "--every")).out

    first = solved.json["choices"][0]["layer"]["name"]
    found = good(bitplan("explain", "s.json", "--samples", 20, "--json")).json
    assert len(found["reasons"]) == len(solved.json["choices"])
    assert found["predicted_kl"] == pytest.approx(solved.json["predicted_kl"])
    said = good(bitplan("explain", "s.json", "--layer", first, "--exact", "--table", "costs.json"))
    assert f"{first}: {solved.json['choices'][0]['scheme']}." in said.out
    refused(bitplan("explain", "s.json", "--layer", "*.v_prj"), "'*.v_prj' matches no layer")

    allocated = good(
        bitplan("allocate", folder, "--budget-gb", budget, *SIZES, "--refine-tokens", 500, "--json")
    )
    plan = Plan.load("plan.json")
    assert Plan.from_json(allocated.out) == plan
    assert plan.evidence is not None
    assert plan.bytes <= float(budget) * 1e9
    assert "<html" in Path("report.html").read_text()

    applied = good(bitplan("apply", folder, "plan.json", "--out", "small", "--json"))
    assert applied.json == {"folder": "small", "bytes": plan.bytes}
    assert "saved without a tokenizer" in applied.err
    model = load(tmp_path / "small")
    assert held_bytes(model) == plan.bytes
    assert load_plan(tmp_path / "small") == plan

    text = tmp_path / "held out.txt"
    text.write_text("\n\n".join(f"w{i} w{i + 1} w5 w{i % 7}" for i in range(60)))
    arguments = ("evaluate", "small", "--reference", folder, "--text", text, "--length", 16)
    refused(bitplan(*arguments), "has no tokenizer files")
    tiny_tokenizer.save_pretrained(tmp_path / "reference")
    for file in folder.iterdir():
        (tmp_path / "reference" / file.name).write_bytes(file.read_bytes())
    arguments = ("evaluate", "small", "--reference", "reference", "--text", text, "--length", 16)
    report = good(bitplan(*arguments, "--json")).json
    assert report["model"]["bytes"] == plan.bytes
    assert report["model"]["kl"] > 0
    assert report["reference"]["perplexity"] > 1
    assert "perplexity" in good(bitplan(*arguments)).out


def test_every_solver_goes_by_its_name(bitplan, tiny_folder):
    folder = tiny_folder("llama")
    good(bitplan("measure", folder, *SIZES))
    budget = budget_of(folder)
    for solver in SOLVERS:
        arguments = ("--budget-gb", budget, "--solver", solver, "--json", "--out", f"{solver}.json")
        assert good(bitplan("solve", "costs.json", *arguments)).json["solver"] == solver
        plan = Plan.load(f"{solver}.json")
        assert plan.bytes <= plan.budget_bytes
    plans = good(bitplan("frontier", "costs.json", "--points", 3, "--solver", "greedy", "--json"))
    assert {plan["solver"] for plan in plans.json} == {"greedy"}


def test_the_best_plans_are_shown_and_kept(bitplan, tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    good(bitplan("measure", folder, *SIZES))
    arguments = ("best-plans", "costs.json", "--budget-gb", budget_of(folder), "--count", 3)
    said = good(bitplan(*arguments, "--out", "plans", "--pin", "lm_head=int8"))
    assert "plans/plan-1.json" in said.out
    assert "Proven optimal" in said.out
    plans = [Plan.load(f"plans/plan-{number}.json") for number in (1, 2, 3)]
    assert len({plan.to_json() for plan in plans}) == 3
    assert sorted(plan.predicted_kl for plan in plans) == [plan.predicted_kl for plan in plans]
    assert all(str(plan.schemes["lm_head"]) == "int8" for plan in plans)
    listed = good(bitplan(*arguments, "--differ-by", "0.3", "--json")).json
    assert len(listed) == 3
    assert Plan.load("plan-2.json").to_json() == Plan.from_json(json.dumps(listed[1])).to_json()


def test_presets_are_listed_and_make_plans(bitplan, tiny_folder):
    listed = good(bitplan("presets", "--json")).json
    assert [one["name"] for one in listed] == list(PRESETS)
    assert all(one["source"] and one["estimators"] and one["objective"] for one in listed)
    said = good(bitplan("presets")).out
    assert "[dim]" not in said
    assert all(name in said for name in PRESETS)
    folder = tiny_folder("llama")
    good(bitplan("measure", folder, *SIZES))
    arguments = ("--budget-gb", budget_of(folder), "--preset", "hawq-v3")
    plan = good(bitplan("solve", "costs.json", *arguments, "--json")).json
    assert plan["solver"] == "hawq_v3"
    assert "asks for a table of hessian_trace" in plan["status"]


def test_an_effort_says_what_it_does_and_does_it(bitplan, tiny_folder):
    listed = good(bitplan("efforts", "--json")).json
    assert [one["name"] for one in listed] == list(EFFORTS)
    said = good(bitplan("efforts")).out
    assert all(name in said and effort.quantizer in said for name, effort in EFFORTS.items())
    folder, epochs = tiny_folder("llama-tied"), {}
    for name, effort in EFFORTS.items():
        arguments = ("--budget-gb", budget_of(folder), "--effort", name, "--no-verify")
        plan = good(bitplan("allocate", folder, *SIZES, *arguments, "--json")).json
        assert plan["provenance"]["quantizer"] == effort.quantizer
        told = good(bitplan("apply", folder, "plan.json", "--out", name, *arguments[2:4], "--json"))
        epochs[name] = told.json.get("tuning", {}).get("steps", 0)
    assert epochs["low"] == epochs["standard"] == 0 < epochs["high"]
    rendered = ("--effort", "high", "--quantizer", "rtn", "--no-verify", "--json")
    plan = good(bitplan("allocate", folder, *SIZES, "--budget-gb", 1, *rendered)).json
    assert plan["provenance"]["quantizer"] == "rtn"
    said = bitplan("measure", folder, "--effort", "most")
    assert said.code == 2
    assert "no effort 'most'. Choose one of: low, standard, high" in said.err


def test_a_preset_chooses_what_is_measured(bitplan, tiny_folder):
    folder = tiny_folder("llama")
    arguments = ("--budget-gb", budget_of(folder), "--preset", "nncf-data-free", "--no-verify")
    plan = good(bitplan("allocate", folder, *SIZES, *arguments, "--json")).json
    assert plan["solver"] == "nncf_data_free"
    assert plan["provenance"]["estimator"] == "weight_error"
    assert "Note" not in plan["status"]


def test_a_budget_holds_the_cache_too(bitplan, tiny_folder, tmp_path):
    folder, cache = tiny_folder("llama-tied"), ["--context", 40, "--batch", 2]
    described = good(bitplan("describe", folder, *cache, "--json")).json
    weights = good(bitplan("describe", folder, "--json")).json
    assert described["bytes"] - weights["bytes"] == 2 * 2 * 80 * 16 * 2
    assert "model and cache" in good(bitplan("describe", folder, *cache)).out
    menu = ["--cache-schemes", "int4, int8s"]
    budget = f"{(described['smallest_bytes'] + described['bytes']) / 2e9:.9f}"
    arguments = ("allocate", folder, "--budget-gb", budget, *SIZES, *cache, *menu, "--no-verify")
    assert "model and cache" in good(bitplan(*arguments)).out
    plan = Plan.load("plan.json")
    assert plan.bytes <= float(budget) * 1e9
    schemes = {str(choice.scheme) for choice in plan.choices if choice.layer.is_cache}
    assert schemes <= {"int4", "int8s"}
    assert schemes
    measured = good(bitplan("measure", folder, *SIZES, *cache, *menu, "--json"))
    assert CostTable.from_json(measured.out).provenance == plan.provenance
    said = good(bitplan("apply", folder, "plan.json", "--out", "small")).out
    words = " ".join(said.split())
    assert f"{plan.weight_bytes:,} bytes of parameters and buffers" in words
    assert f"Its cache takes {plan.cache_bytes:,} bytes for 40 tokens of 2 sequences each." in words
    assert hasattr(load(tmp_path / "small"), "new_cache")
    refused(
        bitplan("measure", folder, "--length", 16, "--context", 65), "the model reads at most 64"
    )


@pytest.mark.parametrize("name", NAMES)
def test_tables_for_people(name, bitplan, tiny_folder):
    folder = tiny_folder(name)
    budget = budget_of(folder)
    assert "costs.json" in good(bitplan("measure", folder, *SIZES)).out
    said = good(bitplan("solve", "costs.json", "--budget-gb", budget))
    assert "The plan is in plan.json" in said.out
    assert "KL" in good(bitplan("frontier", "costs.json", "--points", 3)).out
    said = good(bitplan("allocate", folder, "--budget-gb", budget, *SIZES, "--refine-tokens", 200))
    assert "uniform" in said.out
    assert "bitplan apply" in said.out
    assert said.err == ""  # bars are for terminals
    said = good(bitplan("apply", folder, "plan.json", "--out", "small"))
    assert "saved in small" in said.out


def test_a_tokenizer_goes_with_the_model(bitplan, tiny_folder, tiny_tokenizer, tmp_path):
    for file in tiny_folder("llama").iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps(f"w{i} w{i + 3} w8 w9 w{i % 5}") for i in range(90)))
    budget = budget_of(tmp_path / "model")
    arguments = ("--budget-gb", budget, "--calibration", text, *SIZES, "--refine-tokens", 0)
    good(bitplan("allocate", "model", *arguments))
    assert Plan.load("plan.json").provenance.calibration == "text.jsonl, 90 documents, seed 0"
    assert good(bitplan("apply", "model", "plan.json", "--out", "small")).err == ""
    report = good(bitplan("evaluate", "small", "--text", text, "--length", 16, "--json")).json
    assert report["reference"] is None
    # On a machine without the work, the text is asked for.
    again = ("apply", "model", "plan.json", "--out", "again", "--workdir", "elsewhere")
    refused(bitplan(*again), "takes the text that it was calibrated on (text.jsonl,")
    good(bitplan(*again, "--calibration", text))
    assert sorted(p.name for p in Path("small").iterdir()) == sorted(
        p.name for p in Path("again").iterdir()
    )
    weights = [(Path(name) / "model.safetensors").read_bytes() for name in ("small", "again")]
    assert weights[0] == weights[1]


def words(start: int) -> list[str]:
    return [f"w{i} w{start} w{start + 1} w{i % 5}" for i in range(90)]


def test_sources_have_weights_and_colons(bitplan, tiny_folder, tiny_tokenizer, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("llama"), folder)
    tiny_tokenizer.save_pretrained(folder)
    Path("talk.txt").write_text("\n\n".join(words(30)))
    Path("a:2").write_text("\n\n".join(words(50)))
    sources = ("--calibration", "talk.txt:0.75", "--calibration", "a:2:0.25")
    menu = ("--schemes", "int4,bf16", "--quantizer", "rtn")
    table = good(bitplan("measure", folder, *sources, *SIZES, *menu, "--json"))
    made = CostTable.from_json(table.out).provenance
    assert made.calibration == "talk.txt (75%), a:2 (25%), seed 0"
    assert [(domain.name, domain.tokens) for domain in made.domains] == [
        ("talk.txt", 9 * 16),
        ("a:2", 3 * 16),
    ]
    said = good(bitplan("measure", folder, "--calibration", "a:2", *SIZES, *menu))
    assert CostTable.load("costs.json").provenance.calibration == "a:2, 90 documents, seed 0"
    assert "176 tokens" in " ".join(said.out.split())


def test_a_transform_reaches_the_table(bitplan, tiny_folder):
    arguments = ("measure", tiny_folder("llama-tied"), "--schemes", "int4g16,bf16", "--length", 16)
    few = ("--quantizer", "rtn", "--sequences", 2, "--transform", "hadamard")
    said = good(bitplan(*arguments, *few))
    assert CostTable.load("costs.json").provenance.transform == "hadamard"
    assert "Only the heads are rotated, not the residual stream" in " ".join(said.err.split())


def test_a_time_limit_and_a_temperature_reach_the_table(bitplan, tiny_folder):
    arguments = ("measure", tiny_folder("gpt2"), "--schemes", "int4,bf16", "--quantizer", "rtn")
    limited = ("--time-limit", 1e-9, "--length", 8, "--temperature", 0.5)
    said = good(bitplan(*arguments, *limited))
    made = CostTable.load("costs.json").provenance
    assert (made.sizes["calibration"], made.calibration_tokens) == (4, 32)
    assert made.temperature == 0.5
    assert "with the fewest sequences, 4, measuring takes about" in " ".join(said.err.split())
    # The default length is the model's context, and that is said.
    said = good(bitplan(*arguments, "--sequences", 2))
    assert CostTable.load("costs.json").provenance.sizes["length"] == 64
    assert "The model reads at most 64 tokens" in said.err


def test_every_choice_reaches_the_plan(bitplan, tiny_folder):
    good(
        bitplan(
            *(
                "allocate",
                tiny_folder("llama"),
                "--budget-gb",
                budget_of(tiny_folder("llama"), 0.5),
            ),
            *("--schemes", "int3, int4,int8s,bf16", "--pin", "*.v_proj=int8s|bf16"),
            *("--pin", "lm_head=int4", "--fuse", "--estimator", "fisher_diagonal"),
            *("--quantizer", "clip", "--solver", "lagrangian", "--seed", 7, "--no-verify", *SIZES),
            *("--through", "blocks"),
        )
    )
    plan = Plan.load("plan.json")
    schemes = {name: str(scheme) for name, scheme in plan.schemes.items()}
    assert set(schemes.values()) <= {"int3", "int4", "int8s", "bf16"}
    assert schemes["lm_head"] == "int4"
    assert schemes["model.layers.0.self_attn.q_proj"] in {"int8s", "bf16"}
    made = plan.provenance
    assert (made.estimator, made.quantizer, made.seed) == ("fisher_diagonal", "clip", 7)
    assert made.calibration == "sampled from the model, seed 7"
    assert plan.solver == "lagrangian"
    assert plan.evidence is None
    assert made.sizes["calibration"] == 12


def test_what_a_plan_must_keep_to_reaches_it(bitplan, tiny_folder):
    folder = tiny_folder("llama")
    good(bitplan("measure", folder, *SIZES, "--schemes", "int2,int4,int8s,bf16"))
    keep = ("--floor", "*.v_proj=8", "--tie", "*.q_proj|*.o_proj", "--most-schemes", 2)
    keep = (*keep, "--limit", "workspace_bytes=6144", "--average-bits", 6)
    said = good(bitplan("solve", "costs.json", *keep))
    assert "of at most 6 bits per weight on average" in said.out
    plans = [Plan.load("plan.json")]
    frontier = good(bitplan("frontier", "costs.json", "--points", 4, *keep, "--json")).json
    plans += [Plan.from_json(json.dumps(plan)) for plan in frontier]
    good(bitplan("allocate", folder, *keep, *SIZES, "--schemes", "int2,int4,int8s,bf16"))
    plans.append(Plan.load("plan.json"))
    assert plans[-1].evidence is not None
    for plan in plans:
        schemes = {name: str(scheme) for name, scheme in plan.schemes.items()}
        assert len(set(schemes.values())) <= 2
        assert {s for n, s in schemes.items() if n.endswith("v_proj")} <= {"int8s", "bf16"}
        assert len({s for n, s in schemes.items() if n.endswith(("q_proj", "o_proj"))}) == 1
        weights = sum(choice.layer.parameters for choice in plan.choices)
        assert 8 * sum(choice.bytes for choice in plan.choices) <= 6 * weights
    refused(
        bitplan(
            "solve", "costs.json", *keep[:-1], 3, "--floor", "*.down_proj=8", "--pin", "*.0.*=bf16"
        ),
        "No plan keeps to at most 3 bits per weight on average and the ",
        "Nearest that could: ",
    )
    refused(bitplan("solve", "costs.json", "--most-schemes", 2), "Give --budget-gb")


def test_the_estimator_is_named_and_its_reason_told_when_asked(bitplan, tiny_folder):
    command = ("measure", tiny_folder("llama"), *SIZES, "--quantizer", "rtn", "--json")
    reason = "The estimator is gradient_covariance: gradient_covariance takes "
    quiet, told = good(bitplan(*command)), good(bitplan(*command, "--estimator", "auto", "-v"))
    assert quiet.err == ""
    assert reason in " ".join(told.err.split())
    assert "The engine is serial" in " ".join(told.err.split())
    assert told.out == quiet.out
    assert told.json["provenance"]["estimator"] == "gradient_covariance"
    assert good(bitplan(*command)).err == ""  # to be told is for one command
    for verb in ("measure", "allocate"):
        assert "auto (the best that" in good(bitplan(verb, "--help")).out


def test_names_that_are_known_without_torch_are_those_of_the_registry():
    assert tuple(QUANTIZERS) == names.QUANTIZERS


@pytest.mark.parametrize("verb", ["measure", "allocate"])
def test_the_help_names_every_quantizer(verb, bitplan):
    said = good(bitplan(verb, "--help")).out.partition("--quantizer")[2].partition("--through")[0]
    assert {name for name in QUANTIZERS if not re.search(rf"\b{name}\b", said)} == set()


def test_a_budget_as_large_as_the_model_keeps_it(bitplan, tiny_folder):
    said = good(bitplan("allocate", tiny_folder("gpt2"), "--budget-gb", 1))
    assert "The budget holds the whole model" in said.out
    good(bitplan("apply", tiny_folder("gpt2"), "plan.json", "--out", "same"))
    plan = Plan.load("plan.json")
    assert held_bytes(load("same")) == plan.bytes
    assert Plan.from_json(good(bitplan("describe", "same", "--json")).out) == plan
    described = good(bitplan("describe", "same")).out
    assert "Plan for tiny-gpt2" in described
    assert " at most in all" not in described  # no table told how sure its losses are
    refused(bitplan("describe", "same", "--context", 8), "its plan's. Leave --context out")


def nothing_was_written(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name != "cache"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget-gb", "0"], "it must be a number above zero"),
        (["--budget-gb", "-3"], "it must be a number above zero"),
        (["--budget-gb", "nan"], "it must be a number above zero"),
        (["--budget-gb", "inf"], "it must be a number above zero"),
        (["--budget-gb", "1e-9"], "the smallest plan needs"),
        (["--schemes", "int4,int9"], "'int9' is not a scheme"),
        (["--schemes", ","], "list of schemes is empty"),
        (["--estimator", "hessian"], "no estimator 'hessian'"),
        (["--quantizer", "awq"], "no quantizer 'awq'"),
        (["--solver", "simplex"], "no solver 'simplex'"),
        (["--preset", "hawq"], "There is no preset 'hawq'. Choose one of adaquant, hawq_v3,"),
        (["--pin", "lm_head"], "is not LAYER=SCHEME"),
        (["--pin", "nothing=int4g64"], "matches no layer"),
        (["--floor", "nothing=4"], "The floor 'nothing' matches no layer. Closest of 16: "),
        (["--tie", "nothing"], "The tie 'nothing' matches no layer"),
        (["--average-bits", "1"], "at most 1 bits per weight on average. Nearest that could: 2."),
        (["--runtime", "phone"], "no runtime 'phone'. Choose one of bitplan, torch-cpu"),
        (["--limit", "cache_bytes=9"], "the cost table has no cache"),
        (["--pin", "*=int9"], "'int9' is not a scheme"),
        (["--calibration", "missing.txt"], "no calibration file 'missing.txt'"),
        (["--calibration", "missing.txt:0.5"], "no calibration file 'missing.txt'"),
        (["--calibration", "missing.txt:-1"], "The weight of missing.txt is -1.0"),
        (["--temperature", "0"], "The temperature is 0"),
        (["--time-limit", "0"], "The time limit is 0"),
        (["--time-limit", "60", "--sequences", "8"], "Leave one of them out"),
        (["--dtype", "int8"], "not a dtype"),
        (["--transform", "spin"], "no transform 'spin'. Choose one of: none, awq, hadamard"),
        (["--through", "block"], "no way through a model named 'block'"),
        (["--length", "256"], "256 tokens long, but the model reads at most 64"),
        (["--out", "."], "is a folder"),
        (["--out", "/dev/null/plan.json"], "Cannot make the folder"),
        (["--report", "/dev/null/report.html"], "Cannot make the folder"),
        (["--workdir", "/dev/null/work"], "Cannot make the folder"),
    ],
)
def test_allocate_refuses_bad_input_at_once(arguments, message, bitplan, tiny_folder, tmp_path):
    given = {"--budget-gb": "0.00003", "--length": "16"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    flat = [part for pair in given.items() for part in pair]
    refused(bitplan("allocate", tiny_folder("llama"), *flat), message)
    assert nothing_was_written(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_text_without_a_tokenizer_is_refused(bitplan, tiny_folder, tmp_path):
    (tmp_path / "text.txt").write_text("some words\n\nmore words")
    arguments = ("--budget-gb", "0.00003", "--calibration", "text.txt", "--length", 16)
    refused(bitplan("allocate", tiny_folder("llama"), *arguments), "no tokenizer files")
    assert not Path("plan.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "./missing"], "There is no folder or file './missing'"),
        (["describe", "file.txt"], "is a file, but no GGUF file"),
        (["describe", "empty"], "has no config.json"),
        (["measure", "./missing"], "There is no folder or file"),
        (["solve", "missing.json", "--budget-gb", "1"], "Cannot read missing.json"),
        (["solve", "file.txt", "--budget-gb", "1"], "not the JSON of a CostTable"),
        (["solve", "null.json", "--budget-gb", "1"], "is not a CostTable"),
        (["frontier", "missing.json"], "Cannot read missing.json"),
        (["explain", "missing.json"], "Cannot read missing.json"),
        (["apply", "{llama}", "missing.json", "--out", "small"], "Cannot read missing.json"),
        (["apply", "{llama}", "file.txt", "--out", "small"], "not the JSON of a Plan"),
        (["evaluate", "./missing", "--text", "file.txt"], "There is no folder or file"),
        (["evaluate", "{llama}", "--text", "missing.txt"], "Cannot read missing.txt"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message, bitplan, tiny_folder, tmp_path):
    (tmp_path / "file.txt").write_text("words")
    (tmp_path / "null.json").write_text("null")
    (tmp_path / "empty").mkdir()
    before = set(tmp_path.rglob("*"))
    arguments = [part.format(llama=tiny_folder("llama")) for part in arguments]
    said = bitplan(*arguments)
    refused(said, message)
    assert not any(path.is_file() for path in set(tmp_path.rglob("*")) - before)


@pytest.mark.parametrize("verb", ["measure", "solve", "allocate", "apply"])
def test_a_place_that_cannot_be_written_is_found_before_any_work(
    verb, bitplan, tiny_folder, tmp_path
):
    (tmp_path / "file").write_text("mine")
    folder = tiny_folder("llama")
    arguments = {
        "measure": [folder],
        "solve": ["missing.json", "--budget-gb", "1"],
        "allocate": [folder, "--budget-gb", "0.00003"],
        "apply": [folder, "plan.json"],
    }[verb]
    if verb == "apply":
        good(bitplan("allocate", folder, "--budget-gb", "1"))
    place = tmp_path / "file" / ("deeper" if verb == "apply" else "plan.json")
    refused(bitplan(verb, *arguments, "--out", place), "Cannot make the folder", "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert not list(tmp_path.rglob("*.safetensors*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["allocat"], "No such command 'allocat'"),
        (["allocate", "model"], "Give --budget-gb, or --average-bits"),
        (["allocate", "model", "--budget", "1"], "No such option: --budget"),
        (["allocate", "model", "--budget-gb", "four"], "Invalid value for '--budget-gb'"),
        (["measure", "model", "--length", "1"], "Invalid value for '--length'"),
        (["apply", "model", "plan.json"], "Missing option '--out'"),
        (["frontier", "costs.json", "--points", "1"], "Invalid value for '--points'"),
        (["measure", "model", "--sequences", "0"], "Invalid value for '--sequences'"),
    ],
)
def test_a_slip_in_an_option_is_named(arguments, message, bitplan):
    said = bitplan(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert message in " ".join(said.err.replace("│", " ").split())


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "describe",
        "measure",
        "solve",
        "presets",
        "efforts",
        "frontier",
        "best-plans",
        "explain",
        "allocate",
        "apply",
        "evaluate",
    ],
)
def test_every_verb_has_help(verb, bitplan):
    said = good(bitplan(verb, "--help"))
    assert f"Usage: bitplan {verb}" in said.out
    assert "--json" in said.out
    if verb in ("solve", "frontier", "allocate"):
        assert all(solver in said.out for solver in SOLVERS)


def test_a_plan_of_another_model_is_refused(bitplan, tiny_folder):
    good(bitplan("allocate", tiny_folder("llama"), "--budget-gb", "1"))
    said = bitplan("apply", tiny_folder("gpt2"), "plan.json", "--out", "small")
    refused(said, "The plan, made for tiny-llama, lacks layers of the model")
    assert not any(Path("small").iterdir())


def test_an_edited_plan_is_refused_and_pins_are_advised(bitplan, tiny_folder, tmp_path):
    good(bitplan("allocate", tiny_folder("llama"), "--budget-gb", "1"))
    plan = tmp_path / "plan.json"
    plan.write_text(plan.read_text().replace('"bf16"', '"int8"', 1))
    said = bitplan("apply", tiny_folder("llama"), "plan.json", "--out", "small")
    refused(said, "plan.json: This Plan was changed after bitplan wrote it", "pins")


def test_an_old_plan_outlives_a_failure(bitplan, tiny_folder, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text("mine")
    refused(bitplan("allocate", tiny_folder("llama"), "--budget-gb", "1e-9"))
    refused(bitplan("solve", "missing.json", "--budget-gb", "1"))
    assert plan.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "plan.json"]


def test_apply_refuses_the_place_of_another_model_before_its_work(bitplan, tiny_folder, tmp_path):
    folder = tiny_folder("llama-tied")
    good(bitplan("allocate", folder, *SIZES, "--budget-gb", budget_of(folder), "--no-verify"))
    shutil.copytree(folder, tmp_path / "mine")
    # A workdir that cannot be would stop the work itself.
    work = ("--workdir", "plan.json/no")
    refused(bitplan("apply", folder, "plan.json", "--out", "mine", *work), "holds another model")


def test_help_in_a_narrow_terminal_is_read_in_lines_not_in_words():
    done = subprocess.run(
        [sys.executable, "-m", "bitplan.cli", "allocate", "--help"],
        env={**os.environ, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert not set("…│") & set(done.stdout)
    assert re.search(r"--calibration PATH\[:WEIGHT\]  A text, JSONL or$", done.stdout, re.MULTILINE)


def test_efforts_are_read_in_a_narrow_terminal():
    # A console keeps the width that it began with: one of its own.
    said = subprocess.run(
        [sys.executable, "-m", "bitplan.cli", "efforts"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "40"},
    ).stdout
    assert max(map(len, said.splitlines())) <= 40
    assert "…" not in said
    words = " ".join(said.split())
    assert all(f"rendered by {e.quantizer}, passes to refine" in words for e in EFFORTS.values())
    assert all(effort.purpose in words for effort in EFFORTS.values())


def test_a_warning_of_the_hub_is_heard_once():
    code = """
import sys
from bitplan.cli import main
sys.argv = ["bitplan", "efforts"]
try:
    main()
finally:
    from huggingface_hub.utils import logging
    logging.get_logger("huggingface_hub.file_download").warning("retrying")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "retrying\n"


def test_an_interrupt_while_modules_are_imported_is_no_traceback():
    code = """
import signal, sys
from bitplan.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs this may ignore it

class Interrupts:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


def test_a_second_interrupt_while_the_first_ends_the_process_is_no_traceback():
    code = """
import atexit, signal, sys
from bitplan.cli import main

class Interrupts:
    def find_spec(self, name, *_):
        if name == "bitplan.report.efforts":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = ["bitplan", "efforts"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")
    said = " ".join(done.stderr.split())
    assert said == "Stopped. What was done is kept: the same command goes on from there."


def test_an_interrupt_says_that_the_work_is_kept(bitplan, tiny_folder, monkeypatch, tmp_path):
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.Tensor, "backward", interrupted)
    said = bitplan("allocate", tiny_folder("llama"), "--budget-gb", "0.00003", *SIZES)
    assert said.code == 130
    assert said.out == ""
    assert said.err == "Stopped. What was done is kept: the same command goes on from there.\n"
    assert not (tmp_path / "plan.json").exists()
    monkeypatch.undo()
    assert list((tmp_path / "cache").rglob("statistics-*/*/*.safetensors"))


def test_a_fault_of_our_own_is_a_traceback(bitplan, tiny_folder, monkeypatch):
    def faulty(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(torch.Tensor, "backward", faulty)
    monkeypatch.setattr(
        sys, "argv", ["bitplan", "measure", str(tiny_folder("llama")), "--length", "16"]
    )
    with pytest.raises(ZeroDivisionError):
        main()


def test_the_installed_command_is_this_one(tmp_path):
    command = Path(sys.executable).with_name("bitplan")
    runs = [
        subprocess.run(
            [*start, "solve", "missing.json", "--budget-gb", "1"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        for start in ([sys.executable, "-m", "bitplan.cli"], [str(command)])
    ]
    for run in runs:
        said = Said(code=run.returncode, out=run.stdout, err=run.stderr)
        refused(said, "Cannot read missing.json")


def test_names_are_read_with_spaces():
    assert names_of(None) is None
    assert names_of(" int4 ,, bf16,") == ["int4", "bf16"]

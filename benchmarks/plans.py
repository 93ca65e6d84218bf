"""Held-out KL and perplexity of plans against uniform ones at equal bytes, on SmolLM2-135M.

All 210 linears are compressed in groups of 64; embedding and norms stay as they are. Titles are
sorted and shuffled with `random.Random(0)`: the first half calibrates (32 x 256 tokens), the second
is judged on (16 x 512) and, further on, searched on (32 x 256). A uniform plan of half a bit more
gives every other layer one bit more.

    python benchmarks/plans.py [--bits 3.0 3.5 4.0] [--workdir DIR] [--refine-tokens N]
        [--searches auto evopress] [--winsorize 3]

`--winsorize inf` gathers every sequence as it is; give it a work folder of its own.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from bitplan import Budget
from bitplan.allocator import plan_of, search, solve
from bitplan.calibration import TokenSets, tokenize
from bitplan.evaluate import Divergence
from bitplan.models import demo_documents, fetch, load_tokenizer
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.evaluator import ModelEvaluator, lessons_of
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.stages import measure_in
from bitplan.schema import CostTable, Plan, Scheme
from bitplan.sensitivity import winsorize

MENU = ["int2g64", "int3g64", "int4g64", "int5g64", "int6g64", "int8g64", "bf16"]


def tokens_of(files, search_sequences: int = 32) -> TokenSets:
    documents, tokenizer = demo_documents(files), load_tokenizer(str(files.gguf))
    half = len(documents) // 2
    judging = tokenize(documents[half:], tokenizer, 32 + search_sequences, 256)
    return TokenSets(
        calibration=tokenize(documents[:half], tokenizer, 32, 256),
        held_out=judging[:32].reshape(16, 512),
        search=judging[32:],
        source="Wikipedia summaries",
    )


def uniform_plan(table: CostTable, bits: float, budget_bytes: int) -> Plan:
    """Whole bits: one scheme. Halves: the lower and the higher bits in turn."""
    pair = (int(bits), int(bits + 0.5))
    assignment, turn = {}, 0
    for row in table.rows:
        if row.layer.name.endswith("embed_tokens"):
            assignment[row.layer.name] = Scheme.parse("bf16")
        else:
            assignment[row.layer.name] = Scheme.parse(f"int{pair[turn % 2]}g64")
            turn += 1
    return plan_of(table, assignment, budget_bytes=budget_bytes, solver="uniform", status="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=float, nargs="+", default=[3.0, 3.5, 4.0])
    parser.add_argument("--workdir")
    parser.add_argument("--refine-tokens", type=int, default=400_000)
    parser.add_argument("--searches", nargs="*", default=["auto"], help="auto, evopress")
    parser.add_argument("--search-sequences", type=int, default=32)
    parser.add_argument("--estimator", default="gradient_covariance")
    parser.add_argument("--quantizer", default="gptq")
    parser.add_argument("--winsorize", type=float, default=winsorize.MOST, help="times the median")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    torch.manual_seed(0)
    winsorize.MOST = args.winsorize
    files = fetch()
    settings = Settings(
        schemes=MENU,
        calibration=tokens_of(files, args.search_sequences),
        estimator=args.estimator,
        quantizer=args.quantizer,
        workdir=args.workdir,
    )
    start = time.perf_counter()
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir)
    table, meter, tokens = measure_in(workspace, settings)
    print(f"measured in {time.perf_counter() - start:.0f} s")
    sets = {"search": tokens.search, "held_out": tokens.held_out, "calibration": lessons_of(tokens)}
    judge = Judge(workspace=workspace, meter=meter, tokens=sets)
    pins = {"*embed_tokens": "bf16"}
    rows = []
    with judge.borrowed():
        reference = judge.reference("held_out").perplexity
        print(f"reference perplexity {reference:.2f}")
        print("| bits | plan | bytes | predicted KL | measured KL | perplexity | seconds |")
        print("|---|---|---|---|---|---|---|")
        for bits in args.bits:
            budget = budget_of(table, bits)
            uniform = uniform_plan(table, bits, budget.total_bytes)
            start = time.perf_counter()
            plan = solve(table, budget, pins=pins)
            seconds = time.perf_counter() - start
            rows.append(_row(judge, bits, "uniform", uniform, 0.0))
            rows.append(_row(judge, bits, "solved", plan, seconds))
            for name in args.searches:
                start = time.perf_counter()
                found = search(
                    table,
                    [plan],
                    ModelEvaluator(judge=judge, table=table),
                    tokens=args.refine_tokens,
                    method=name,
                    pins=pins,
                )
                seconds = time.perf_counter() - start
                print(f"{name}: {found.plan.status}")
                rows.append(_row(judge, bits, f"refined, {name}", found.plan, seconds))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def budget_of(table: CostTable, bits: float) -> Budget:
    linears = [row.layer for row in table.rows if not row.layer.name.endswith("embed_tokens")]
    embedding = sum(row.layer.parameters for row in table.rows) - sum(x.parameters for x in linears)
    packed = sum(layer.parameters for layer in linears) * (bits + 32 / 64) / 8
    return Budget(bytes=round(table.rest_bytes + 2 * embedding + packed))


def _row(judge: Judge, bits: float, name: str, plan: Plan, seconds: float) -> dict[str, object]:
    found: Divergence = judge.measure(plan.schemes, "held_out")
    print(
        f"| {bits} | {name} | {plan.bytes:,} | {plan.predicted_kl:.4f} "
        f"| {found.mean:.4f} ± {found.standard_error:.4f} | {found.perplexity:.2f} "
        f"| {seconds:.1f} |",
        flush=True,
    )
    return {
        "bits": bits,
        "plan": name,
        "bytes": plan.bytes,
        "predicted_kl": plan.predicted_kl,
        "kl": found.mean,
        "standard_error": found.standard_error,
        "perplexity": found.perplexity,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()

"""Held-out KL and perplexity before and after tuning scales and offsets, on SmolLM2-135M.

The ground is that of `benchmarks/plans.py`: all 210 linears in groups of 64, embedding and norms as
they are, 32 x 256 calibration tokens that are tuned on as well, 32 x 256 others that say when to
stop, and 16 x 512 held out. A plan is an average of bits, solved for, or `uniform-2` and the like.

    python benchmarks/tuning.py [--plans 2.5 3.0 3.5 uniform-2 uniform-3 uniform-4] [--epochs 8]
        [--rate RATE] [--quantizer gptq] [--block-epochs 4] [--block-window 1] [--workdir DIR]
        [--json FILE]

`--quantizer quantease` is what the effort `high` does, but for its search. With `--block-epochs`
each block is trained on its own before, and the first KL and perplexity are those after that;
`--epochs 0` leaves it there.

State is kept in the work folder: the same command goes on where it was.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitplan.allocator import solve
from bitplan.apply import pack_layers
from bitplan.calibration import TokenSets
from bitplan.evaluate import Reference, compare, make_reference
from bitplan.files import make_folder
from bitplan.formats import Packed
from bitplan.models import Inputs, fetch
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.fingerprint import short_digest
from bitplan.pipeline.stages import measure_in
from bitplan.progress import quiet
from bitplan.schema import CostTable, Layer, Plan, Scheme
from bitplan.sensitivity import Meter, block_outputs
from bitplan.tune import Lessons, tune, tune_blocks
from plans import MENU, budget_of, tokens_of, uniform_plan

PINS = {"*embed_tokens": "bf16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    plans = ["2.5", "3.0", "3.5", "uniform-2", "uniform-3", "uniform-4"]
    parser.add_argument("--plans", nargs="+", default=plans)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--rate", type=float, help="that of `tune` if it is not given")
    parser.add_argument("--quantizer", default="gptq")
    parser.add_argument("--block-epochs", type=float, default=0)
    parser.add_argument("--block-window", type=int, default=1)
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-tuning"))
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    files = fetch()
    tokens = tokens_of(files)
    references = references_of(str(files.gguf), tokens, args.workdir)
    rows = []
    print("| plan | KL | tuned | perplexity | tuned | steps | processor s |")
    print("|---|---|---|---|---|---|---|")
    for name in args.plans:
        rows.append(row_of(name, str(files.gguf), tokens, references, args))
        print("| {plan} | {kl:.4f} | {tuned_kl:.4f} ± {error:.4f} |".format(**rows[-1]), end=" ")
        print(
            "{ppl:.2f} | {tuned_ppl:.2f} | {steps} | {seconds:.0f} |".format(**rows[-1]), flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def references_of(source: str, tokens: TokenSets, workdir: Path) -> dict[str, Reference]:
    model = Workspace.open(source, workdir=workdir).model
    sets = {"calibration": tokens.calibration, "search": tokens.search, "held_out": tokens.held_out}
    return {name: make_reference(model, each, workdir) for name, each in sets.items()}


def row_of(
    name: str,
    source: str,
    tokens: TokenSets,
    references: dict[str, Reference],
    args: argparse.Namespace,
) -> dict[str, Any]:
    workspace = Workspace.open(source, workdir=args.workdir)
    settings = Settings(
        schemes=MENU,
        calibration=tokens,
        estimator="gradient_covariance",
        quantizer=args.quantizer,
        workdir=args.workdir,
    )
    table, meter, _ = measure_in(workspace, settings, quiet)
    plan = plan_of_name(name, table)
    start = time.process_time()
    packed = pack_in(workspace, plan, meter, tokens, args)
    block_seconds = time.process_time() - start
    before = after = compare(packed, references["held_out"])
    settled = f"{name}-{args.quantizer}-{args.epochs:g}-{args.rate or 'by-bits'}"
    if args.block_epochs:
        settled += f"-{args.block_epochs:g}-{args.block_window}"
    file = args.workdir / f"tuned-{settled}.safetensors"
    start, steps = time.process_time(), 0
    if args.epochs:
        done = tune(
            packed,
            references["calibration"],
            references["search"],
            epochs=args.epochs,
            rate=args.rate,
            file=file,
            progress=told,
        )
        steps, after = done.steps, compare(packed, references["held_out"])
    seconds = time.process_time() - start
    return {
        "plan": name,
        "quantizer": args.quantizer,
        "bytes": plan.bytes,
        "kl": before.mean,
        "tuned_kl": after.mean,
        "error": (after.kl - before.kl).std(ddof=1) / len(after.kl) ** 0.5,
        "ppl": before.perplexity,
        "tuned_ppl": after.perplexity,
        "steps": steps,
        "seconds": seconds,
        "block_epochs": args.block_epochs,
        "block_window": args.block_window,
        "block_seconds": block_seconds,
        "threads": torch.get_num_threads(),
    }


def pack_in(
    workspace: Workspace, plan: Plan, meter: Meter, tokens: TokenSets, args: argparse.Namespace
) -> nn.Module:
    """The packed model; its blocks trained, if that is asked for."""
    model = workspace.model
    schemes = {layer: plan.schemes[layer.name] for layer in workspace.layers}

    def packed_of(layer: Layer, scheme: Scheme) -> Packed:
        return meter.packed(layer, [scheme])[0]

    if not args.block_epochs:
        return pack_layers(model, schemes, packed_of)
    for layer, scheme in schemes.items():  # while the weights are there
        packed_of(layer, scheme)
    lessons, judged = (
        Lessons(inputs=one, matters=block_outputs(model, one))
        for one in map(Inputs.of, (tokens.calibration, tokens.search))
    )
    names = sorted((layer.name, str(scheme)) for layer, scheme in schemes.items())
    ways = (args.quantizer, args.block_epochs, args.block_window)
    tune_blocks(
        model,
        schemes,
        packed_of,
        lessons,
        judged,
        epochs=args.block_epochs,
        window=args.block_window,
        folder=make_folder(args.workdir / f"blocks-{short_digest(names, *ways)}"),
        progress=told,
    )
    return model


def plan_of_name(name: str, table: CostTable) -> Plan:
    if not name.startswith("uniform-"):
        return solve(table, budget_of(table, float(name)), pins=PINS)
    bits = float(name.removeprefix("uniform-"))
    return uniform_plan(table, bits, budget_of(table, bits).total_bytes)


class Told:
    """Progress in a line of the log now and then."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See `bitplan.progress.Progress`."""
        if stage in ("tune", "blocks") and done % 8 == 0:
            print(f"  {stage}: {done} of {total}", flush=True)

    def remark(self, stage: str, text: str) -> None:
        """See `bitplan.progress.Remarked`."""
        print(f"  {text}", flush=True)


told = Told()

if __name__ == "__main__":
    main()

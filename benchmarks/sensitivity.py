"""Every estimator against the measured KL of single swaps, on SmolLM2-135M in float32.

Layers are rendered by GPTQ over 32 x 256 calibration tokens in 2, 3, 4, 5, 6 and 8 bits, groups of
64. The truth is the KL of each single swap on other text; it takes an hour or more on two cores and
is kept, with all else, in the work folder: the same command goes on where it was.

For every estimator: rank correlation with the truth over all (layer, bits), at 3 bits and less, and
at 4 and more; seconds and peak resident memory, rendering not counted; and the held-out KL of the
plans that it leads to.

    python benchmarks/sensitivity.py [--workdir DIR] [--estimators NAME ...] [--truth-tokens 512]
        [--layers PATTERN] [--json FILE]
"""

import argparse
import fnmatch
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from plans import _budget as budget_of
from plans import tokens_of
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from bitplan.allocator import solve
from bitplan.evaluate.throughput import peak_memory, reset_peak_memory
from bitplan.models import fetch
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.stages import measure_in
from bitplan.schema import CostTable, Layer, Scheme
from bitplan.sensitivity import ESTIMATORS, MODEL_ESTIMATORS, Bench, Shards, WholeModel

MENU = ("int2g64", "int3g64", "int4g64", "int5g64", "int6g64", "int8g64")
BITS = (3.0, 3.5, 4.0)
TRUTH_LENGTH = 128
RANGES: dict[str, Callable[[int], bool]] = {
    "all": lambda bits: True,
    "<= 3": lambda bits: bits <= 3,
    ">= 4": lambda bits: bits >= 4,
    "4": lambda bits: bits == 4,
}

Losses = dict[tuple[str, str], float]


def truth_of(workspace: Workspace, meter, tokens, table: CostTable, pattern: str) -> Losses:
    """The measured KL of every swap, kept shard by shard."""
    shards = Shards(folder=meter.store.folder / "truth" / f"{tokens.numel()}-tokens")
    bench = Bench(
        model=workspace.model,
        tokens=tokens,
        through=WholeModel(model=workspace.model, tokens=tokens),
        decode=partial(_decode, meter),
    )
    rows = [row for row in table.rows if fnmatch.fnmatch(row.layer.name, pattern)]
    truth, start = {}, time.perf_counter()
    for done, row in enumerate(rows, 1):
        schemes = [cost.scheme for cost in row.costs]
        missing = [scheme for scheme in schemes if shards.get(row.layer, scheme) is None]
        if missing:
            lacking = dict.fromkeys([row.layer], missing)
            for layer, losses in MODEL_ESTIMATORS["single_swaps"].judge(bench, lacking):
                for scheme, found in losses.items():
                    shards.put(layer, scheme, found)
            seconds = time.perf_counter() - start
            print(f"truth: {done} of {len(rows)} layers, {seconds:.0f} s", flush=True)
        for scheme in schemes:
            found = shards.get(row.layer, scheme)
            assert found is not None
            truth[row.layer.name, str(scheme)] = found.loss
    return truth


def _decode(meter, layer: Layer, scheme: Scheme):
    [packed] = meter.packed(layer, [scheme])
    return packed.decode(meter.model.dtype)


def correlations(truth: Losses, losses: Losses) -> dict[str, dict[str, float]]:
    rows = {}
    for name, is_in in RANGES.items():
        keys = [key for key in truth if is_in(Scheme.parse(key[1]).bits)]
        pair = np.array([[truth[key], losses[key]] for key in keys]).T
        spearman: Any = spearmanr(*pair)
        kendall: Any = kendalltau(*pair)
        rows[name] = {"spearman": float(spearman[0]), "kendall": float(kendall[0])}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="bitplan-sensitivity")
    names = [name for name in ESTIMATORS if name != "single_swaps"]
    parser.add_argument("--estimators", nargs="+", default=names, choices=names)
    parser.add_argument("--truth-tokens", type=int, default=512)
    parser.add_argument("--layers", default="*", help="wildcard of the layers that are compared")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    files = fetch()
    sets = tokens_of(files)
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir, dtype="float32")
    settings = partial(
        Settings, schemes=MENU, calibration=sets, workdir=args.workdir, dtype="float32"
    )
    table, meter, _ = measure_in(workspace, settings())
    assert isinstance(sets.search, Tensor)
    truth_tokens = sets.search.reshape(-1, TRUTH_LENGTH)[: args.truth_tokens // TRUTH_LENGTH]
    truth = truth_of(workspace, meter, truth_tokens, table, args.layers)
    tables, rows = {}, []
    for name in args.estimators:
        reset_peak_memory()
        start = time.perf_counter()
        tables[name], _, _ = measure_in(workspace, settings(estimator=name))
        seconds, peak = time.perf_counter() - start, peak_memory()
        losses = {(r.layer.name, str(c.scheme)): c.loss for r in tables[name].rows for c in r.costs}
        found = correlations(truth, losses)
        told = ", ".join(f"{k}: {v['spearman']:.4f}" for k, v in found.items())
        print(f"{name}: Spearman {told}; {seconds:.0f} s, {peak / 1e9:.2f} GB", flush=True)
        rows.append(
            {"estimator": name, "seconds": seconds, "peak_bytes": peak, "correlations": found}
        )
    judge = Judge(workspace=workspace, meter=meter, tokens={"held_out": sets.held_out})
    with judge.borrowed():
        for row in rows:
            plans = tables[row["estimator"]]
            row["held_out_kl"] = {}
            for bits in BITS:
                plan = solve(plans, budget_of(plans, bits), pins={"*embed_tokens": "int8g64"})
                kl = judge.measure(plan.schemes, "held_out").mean
                row["held_out_kl"][str(bits)] = kl
                print(f"{row['estimator']} at {bits} bits: KL {kl:.4f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Every estimator against the measured KL of single swaps, on SmolLM2-135M in float32.

All layers are rendered by GPTQ over 32 x 256 calibration tokens, in groups of 64 and 2, 3, 4, 5, 6
and 8 bits. The truth is the KL of each single swap on 4 x 128 tokens of other text; at 4 bits,
where swaps are hardest to tell apart, on 8 x 128. That takes an hour on two cores and is kept in
the work folder with all else, so that the same command goes on where it was.

For every estimator, in a process and on statistics of its own: rank correlations with the truth,
tokens sent forward, seconds of processor time on one thread and peak resident memory (rendering not
counted, the model and Python are); and the held-out KL of the plans that it leads to.

    python benchmarks/sensitivity.py [--workdir DIR] [--estimators NAME ...] [--out docs]
        [--part truth | estimators | plans]
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sensitivity_report import write_report
from sensitivity_truth import RANGES, Ground, Losses, correlations, told, truth_of
from torch import Tensor

from bitplan import Budget
from bitplan.allocator import solve
from bitplan.evaluate.throughput import peak_memory, reset_peak_memory
from bitplan.pipeline.judge import Judge
from bitplan.schema import CostTable, Scheme
from bitplan.sensitivity import (
    ESTIMATORS,
    LABELS,
    AbstractModelEstimator,
    Meter,
    Shards,
    StatisticsFolder,
    WholeModel,
    gather,
    get_estimator,
)
from plans import uniform_plan

BUDGETS = (3.0, 3.5, 4.0)
EMBEDDING = "*embed_tokens"


def run_estimator(workdir: str, name: str, *, on_other_text: bool) -> dict[str, Any]:
    """All losses that one estimator finds, and what they took."""
    torch.set_num_threads(1)
    ground, estimator = Ground.of(workdir), get_estimator(name)
    model, layers = ground.workspace.model, ground.workspace.layers
    tokens = ground.other if on_other_text else ground.sets.calibration
    assert isinstance(tokens, Tensor)
    is_on_model = isinstance(estimator, AbstractModelEstimator)
    forwarded = [0]
    model.register_forward_pre_hook(partial(_count, forwarded), with_kwargs=True)
    reset_peak_memory()
    start = time.process_time()
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        meter = Meter(
            model=model,
            statistics={
                labels: StatisticsFolder(folder=Path(folder) / labels, sequences=len(tokens))
                for labels in LABELS
            },
            store=ground.store,
            shards=Shards(folder=Path(folder) / "costs"),
            quantizer="rtn",  # reads no statistics; all is rendered
            estimator=estimator,
            bench=ground.bench(tokens, estimator.labels) if is_on_model else None,
        )
        for labels, moments in meter.needs.items():
            through = WholeModel(model=model, tokens=tokens, labels=labels, progress=told())
            gather(layers, moments, through, meter.statistics[labels])
        rows = meter.rows(ground.schemes, progress=told())
    return {
        "estimator": f"{name}, other text" if on_other_text else name,
        "tokens": forwarded[0],
        "seconds": time.process_time() - start,
        "peak_bytes": peak_memory(),
        "losses": [[r.layer.name, str(c.scheme), c.loss] for r in rows for c in r.costs],
    }


def _count(forwarded: list[int], module: object, args: object, kwargs: Mapping[str, Any]) -> None:
    forwarded[0] += kwargs["input_ids"].numel()


def estimators_in(workdir: str, names: list[str]) -> list[dict[str, Any]]:
    """What every estimator finds, kept in a file for each."""
    found = []
    turns = [(name, False) for name in names]
    turns += [(name, True) for name in ("gradient_covariance", "fisher_diagonal") if name in names]
    for name, on_other_text in turns:
        path = Path(workdir) / f"{name}{'-other' if on_other_text else ''}.json"
        if not path.is_file():
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                run = pool.submit(run_estimator, workdir, name, on_other_text=on_other_text)
                path.write_text(json.dumps(run.result()))
        found.append(json.loads(path.read_text()))
        told = {key: found[-1][key] for key in ("estimator", "tokens", "seconds", "peak_bytes")}
        print(told, flush=True)
    return found


def ceiling(truth: Mapping[tuple[str, str], np.ndarray]) -> dict[str, float]:
    """The Spearman correlation with this truth that the expected KL itself would reach.

    The root of the truth's own reliability: that of its halves, stepped up (Spearman-Brown).
    """
    found = {}
    for name, is_in in RANGES.items():
        ours = [values for key, values in truth.items() if is_in(Scheme.parse(key[1]).bits)]
        halves = np.array([[v[::2].mean(), v[1::2].mean()] for v in ours])
        half: Any = spearmanr(halves[:, 0], halves[:, 1])
        found[name] = float(np.sqrt(2 * half[0] / (1 + half[0])))
    return found


def plans_in(ground: Ground, tables: Mapping[str, Losses]) -> list[dict[str, Any]]:
    """The held-out KL of the plan of each table, and of the uniform one, at each budget."""
    held_out = ground.sets.held_out[:8]
    meter = ground.workspace.meter(ground.sets, estimator="gradient_covariance", quantizer="gptq")
    judge = Judge(workspace=ground.workspace, meter=meter, tokens={"held_out": held_out})
    rows = []
    with judge.borrowed():
        for bits in BUDGETS:
            budget = _budget(ground.table, bits)
            arms = {"uniform": uniform_plan(ground.table, bits, budget.total_bytes)}
            for name, losses in tables.items():
                table = _with_losses(ground.table, losses)
                arms[name] = solve(table, budget, pins={EMBEDDING: "bf16"})
            for name, plan in arms.items():
                found = judge.measure(plan.schemes, "held_out")
                rows.append(
                    {
                        "estimator": name,
                        "bits": bits,
                        "bytes": plan.bytes,
                        "kl": found.mean,
                        "standard_error": found.standard_error,
                        "perplexity": found.perplexity,
                        "by_sequence": found.kl.tolist(),
                    }
                )
                print(f"{name} at {bits} bits: {found.mean:.4f}", flush=True)
    return rows


def _budget(table: CostTable, bits: float) -> Budget:
    """Of linears at so many bits, with their scales and zero points, and the embedding in bf16."""
    linears = [row.layer for row in table.rows if not row.layer.name.endswith("embed_tokens")]
    embedding = sum(row.layer.parameters for row in table.rows) - sum(x.parameters for x in linears)
    packed = sum(layer.parameters for layer in linears) * (bits + 32 / 64) / 8
    return Budget(bytes=round(table.rest_bytes + 2 * embedding + packed))


def _with_losses(table: CostTable, losses: Losses) -> CostTable:
    rows = []
    for row in table.rows:
        costs = [
            cost.model_copy(update={"loss": losses.get((row.layer.name, str(cost.scheme)), 0.0)})
            for cost in row.costs
        ]
        rows.append(row.model_copy(update={"costs": tuple(costs)}))
    return table.model_copy(update={"rows": tuple(rows)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="bitplan-sensitivity")
    names = [name for name in ESTIMATORS if name != "single_swaps"]
    parser.add_argument("--estimators", nargs="+", default=names, choices=names)
    parser.add_argument("--part", choices=["truth", "estimators", "plans"], help="default: all")
    parser.add_argument("--out", type=Path, help="folder for table, plot and raw rows")
    args = parser.parse_args()
    ground = Ground.of(args.workdir)
    if args.part == "truth":
        truth_of(ground)
        return
    found = estimators_in(args.workdir, args.estimators)
    if args.part == "estimators":
        return
    by_sequence = truth_of(ground)
    truth = {key: float(values.mean()) for key, values in by_sequence.items()}
    tables = {one["estimator"]: {(n, s): x for n, s, x in one["losses"]} for one in found}
    swaps = sum(values.size for values in by_sequence.values()) * ground.truth_tokens.shape[1]
    for one in found:
        table = tables[one["estimator"]]
        one["correlations"] = correlations(truth, table)
        one["losses"] = [float(f"{table[key]:.6g}") for key in truth]  # in the order of the truth
    plans = plans_in(ground, tables | {"single_swaps": truth})
    report = {
        "truth": [[*key, value] for key, value in truth.items()],
        "truth_tokens": swaps,
        "ceiling": ceiling(by_sequence),
        "estimators": found,
        "plans": plans,
        "torch": torch.__version__,
    }
    write_report(report, args.out)


if __name__ == "__main__":
    main()

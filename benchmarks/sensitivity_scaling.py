"""What more schemes, one pass for all of them, and another seed cost and change, on SmolLM2-135M.

    python benchmarks/sensitivity_scaling.py [schemes] [fisher] [seeds] [--repeats 3]

`schemes`: 26 schemes against 6: gathering and judging when all is rendered, and the whole of
`measure` by rounding and by GPTQ, from an empty work folder each time. `fisher`: the output-space
Fisher of 24 schemes over 8,192 tokens against a plain forward and backward pass over the same
tokens. `seeds`: rank correlation between the tables of text sampled with one seed and another, at
the default sizes. All in bfloat16, medians over the repeats, least and most in brackets.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from bitplan import measure
from bitplan.calibration import TokenSets
from bitplan.models import fetch
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.stages import measure_in
from bitplan.schema import CostTable, Scheme
from bitplan.sensitivity import (
    MODEL_ESTIMATORS,
    Bench,
    Meter,
    Shards,
    StatisticsFolder,
    WholeModel,
    gather,
    get_estimator,
)
from bitplan.sensitivity.objective import objective
from plans import tokens_of

SIX = [f"int{bits}g64" for bits in (2, 3, 4, 5, 6, 8)]
TWENTY_FOUR = [
    f"int{bits}{group}" for bits in (2, 3, 4, 5, 6, 8) for group in ("", *("g32", "g64", "g128"))
]
TWENTY_SIX = [*TWENTY_FOUR, "int4g64s", "int8s"]


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def told(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} - {max(seconds):.1f})"


def schemes(gguf: str, sets: TokenSets, repeats: int) -> None:
    """Both menus in turn, so that what else the machine does meets both."""
    print("| 6 and 26 schemes | 6 | 26 | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.open(gguf, workdir=folder)
        settings = Settings(schemes=TWENTY_SIX, calibration=sets, quantizer="rtn", workdir=folder)
        _, meter, _ = measure_in(workspace, settings)
        seconds: dict[int, list[float]] = {6: [], 26: []}
        for _ in range(repeats):
            for menu in (SIX, TWENTY_SIX):
                seconds[len(menu)].append(timed(partial(_judged, workspace, sets, meter, menu)))
    _compare("gather and judge", seconds)
    for quantizer in ("rtn", "gptq"):
        seconds = {6: [], 26: []}
        for _ in range(repeats if quantizer == "rtn" else 1):
            for menu in (SIX, TWENTY_SIX):
                with tempfile.TemporaryDirectory() as folder:
                    seconds[len(menu)].append(
                        timed(
                            partial(
                                measure,
                                gguf,
                                schemes=menu,
                                quantizer=quantizer,
                                workdir=folder,
                                calibration=sets,
                            )
                        )
                    )
        _compare(f"measure, {quantizer}", seconds)


def _judged(workspace: Workspace, sets: TokenSets, rendered: Meter, menu: list[str]) -> None:
    """From no statistics and no costs to all costs, with all weights rendered."""
    with tempfile.TemporaryDirectory() as folder:
        statistics_folder = StatisticsFolder(folder=Path(folder), sequences=len(sets.calibration))
        through = WholeModel(model=workspace.model, tokens=sets.calibration)
        gather(workspace.layers, ["covariance"], through, statistics_folder)
        meter = Meter(
            model=workspace.model,
            statistics={"data": statistics_folder},
            store=rendered.store,
            shards=Shards(folder=Path(folder) / "costs"),
            quantizer="rtn",
            estimator=get_estimator("gradient_covariance"),
            engine="auto",
        )
        meter.rows(workspace.legal(menu))


def _compare(name: str, seconds: dict[int, list[float]]) -> None:
    ratio = statistics.median(seconds[26]) / statistics.median(seconds[6])
    print(f"| {name} | {told(seconds[6])} | {told(seconds[26])} | {ratio:.2f} |", flush=True)


def fisher(gguf: str, sets: TokenSets, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.open(gguf, workdir=folder)
        settings = Settings(schemes=TWENTY_FOUR, calibration=sets, quantizer="rtn", workdir=folder)
        _, meter, _ = measure_in(workspace, settings)
        model, tokens = workspace.model, sets.calibration
        legal = workspace.legal(TWENTY_FOUR)

        def decode(layer: Any, scheme: Scheme) -> torch.Tensor:
            packed = meter.store.get(layer, scheme)
            assert packed is not None
            return packed.decode(torch.bfloat16)

        def plain() -> None:
            model.requires_grad_(True)
            with torch.enable_grad():
                for index in range(len(tokens)):
                    objective(model, tokens[index : index + 1]).backward()
                    model.zero_grad()
            model.requires_grad_(False)

        def judged() -> None:
            through = WholeModel(model=model, tokens=tokens)
            bench = Bench(model=model, tokens=tokens, through=through, decode=decode)
            for _ in MODEL_ESTIMATORS["output_fisher"].judge(bench, legal):
                pass

        both = [(timed(plain), timed(judged)) for _ in range(repeats)]
    base, ours = zip(*both, strict=True)
    ratio = statistics.median(ours) / statistics.median(base)
    print(f"plain forward and backward pass over 8,192 tokens: {told(base)}")
    print(
        f"output_fisher, 24 schemes, the same tokens: {told(ours)}: {ratio:.1f} times", flush=True
    )


def seeds(gguf: str) -> None:
    """Tables of the default menu, of text sampled with seeds 0 and 1."""
    tables = [measure(gguf, seed=seed) for seed in (0, 1)]
    losses = [_losses(table) for table in tables]
    for name, is_in in (("all", lambda bits: bits < 16), ("4 bits", lambda bits: bits == 4)):
        keys = [key for key in losses[0] if is_in(Scheme.parse(key[1]).bits)]
        first, second = ([one[key] for key in keys] for one in losses)
        found: Any = spearmanr(first, second)
        print(f"seed 0 against seed 1, {name}: Spearman {found[0]:.4f}", flush=True)


def _losses(table: CostTable) -> dict[tuple[str, str], float]:
    return {(r.layer.name, str(c.scheme)): c.loss for r in table.rows for c in r.costs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["schemes", "fisher", "seeds"]
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=parts)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    files = fetch()
    gguf, sets = str(files.gguf), tokens_of(files)
    if "schemes" in arguments.parts:
        schemes(gguf, sets, arguments.repeats)
    if "fisher" in arguments.parts:
        fisher(gguf, sets, arguments.repeats)
    if "seeds" in arguments.parts:
        seeds(gguf)


if __name__ == "__main__":
    main()

"""What more schemes, one pass for all of them, and another seed cost and change, on SmolLM2-135M.

    python benchmarks/sensitivity_scaling.py [schemes] [fisher] [seeds] [--repeats 3]
        [--dtype bfloat16] [--blocks N] [--sequences N] [--json FILE]

`schemes`: 26 schemes against 6: gathering and judging when all is rendered, and the whole of
`measure` by rounding and by GPTQ, from an empty work folder each time. `fisher`: the output-space
Fisher of 24 schemes over 8,192 tokens against a plain forward and backward pass over the same
tokens. `seeds`: rank correlation between the tables of text sampled with one seed and another, at
the default sizes. Medians over the repeats, least and most in brackets; where all work is done in
this process (`gather and judge`, `fisher`) seconds of processor time on one thread, else of the
clock. `--blocks` keeps the first of the model's blocks alone. What is found is added to FILE, part
by part; `sensitivity_report.py` makes docs/sensitivity.md of docs/sensitivity_scaling.json, too.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from bitplan import measure
from bitplan.calibration import TokenSets
from bitplan.models import fetch, load_model
from bitplan.pipeline import Workspace
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


Found = dict[str, Any]


def timed(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


def open_workspace(gguf: str, folder: str, arguments: argparse.Namespace) -> Workspace:
    """The model, or its first blocks with its embedding, norm and head."""
    model: Any = load_model(gguf, dtype=arguments.dtype)
    if arguments.blocks:
        model.model.layers = model.model.layers[: arguments.blocks]
        model.config.num_hidden_layers = arguments.blocks
    return Workspace.open(model, workdir=folder)


def rendered_in(workspace: Workspace, sets: TokenSets, menu: list[str]) -> Meter:
    """A meter whose store holds every weight in every scheme, by rounding."""
    meter = workspace.meter(sets, estimator="weight_error", quantizer="rtn")
    for layer, legal in workspace.legal(menu).items():
        meter.packed(layer, legal)
    return meter


def told(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} - {max(seconds):.1f})"


def schemes(gguf: str, sets: TokenSets, arguments: argparse.Namespace) -> list[Found]:
    """Both menus in turn, so that what else the machine does meets both."""
    arms = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = open_workspace(gguf, folder, arguments)
        meter = rendered_in(workspace, sets, TWENTY_SIX)
        seconds: dict[int, list[float]] = {6: [], 26: []}
        for _ in range(arguments.repeats):
            for menu in (SIX, TWENTY_SIX):
                run = partial(_judged, workspace, sets, meter, menu)
                seconds[len(menu)].append(timed(run, time.process_time))
        arms.append(_compared("gather and judge", seconds))
        for quantizer in ("rtn", "gptq") if arguments.whole else ():
            seconds = {6: [], 26: []}
            for _ in range(arguments.repeats if quantizer == "rtn" else 1):
                for menu in (SIX, TWENTY_SIX):
                    run = partial(_measured, workspace, sets, menu, quantizer)
                    seconds[len(menu)].append(timed(run))
            arms.append(_compared(f"measure, {quantizer}", seconds))
    return arms


def _measured(workspace: Workspace, sets: TokenSets, menu: list[str], quantizer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure(
            workspace.model, schemes=menu, quantizer=quantizer, workdir=folder, calibration=sets
        )


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
            engine="serial",
        )
        meter.rows(workspace.legal(menu))


def _compared(name: str, seconds: dict[int, list[float]]) -> Found:
    ratio = statistics.median(seconds[26]) / statistics.median(seconds[6])
    print(f"{name}: {told(seconds[6])}, {told(seconds[26])}: {ratio:.2f} times", flush=True)
    return {"arm": name, "6": seconds[6], "26": seconds[26], "ratio": ratio}


def fisher(gguf: str, sets: TokenSets, arguments: argparse.Namespace) -> Found:
    """Both in turn, likewise."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = open_workspace(gguf, folder, arguments)
        meter = rendered_in(workspace, sets, TWENTY_FOUR)
        model, tokens = workspace.model, sets.calibration
        assert isinstance(tokens, torch.Tensor)
        dtype = getattr(torch, arguments.dtype)
        legal = workspace.legal(TWENTY_FOUR)

        def decode(layer: Any, scheme: Scheme) -> torch.Tensor:
            packed = meter.store.get(layer, scheme)
            assert packed is not None
            return packed.decode(dtype)

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

        clock = time.process_time
        both = [(timed(plain, clock), timed(judged, clock)) for _ in range(arguments.repeats)]
    base, ours = zip(*both, strict=True)
    ratio = statistics.median(ours) / statistics.median(base)
    print(f"plain pass {told(base)}, output_fisher {told(ours)}: {ratio:.1f} times", flush=True)
    return {"plain": base, "judged": ours, "ratio": ratio, "tokens": tokens.numel()}


def seeds(gguf: str, arguments: argparse.Namespace) -> list[Found]:
    """Tables of the default menu, of text sampled with seeds 0 and 1."""
    tables = [measure(gguf, seed=seed, dtype=arguments.dtype) for seed in (0, 1)]
    losses, rows = [_losses(table) for table in tables], []
    for name, is_in in (("all widths", lambda bits: bits < 16), ("4 bits", lambda bits: bits == 4)):
        keys = [key for key in losses[0] if is_in(Scheme.parse(key[1]).bits)]
        first, second = ([one[key] for key in keys] for one in losses)
        found: Any = spearmanr(first, second)
        print(f"seed 0 against seed 1, {name}: Spearman {found[0]:.4f}", flush=True)
        rows.append({"widths": name, "spearman": float(found[0])})
    return rows


def _losses(table: CostTable) -> dict[tuple[str, str], float]:
    return {(r.layer.name, str(c.scheme)): c.loss for r in table.rows for c in r.costs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["schemes", "fisher", "seeds"]
    parser.add_argument("parts", nargs="*", choices=[*names, []], default=names)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--blocks", type=int, help="the model's first blocks alone")
    parser.add_argument("--sequences", type=int, default=32, help="of 256 tokens")
    parser.add_argument("--whole", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="add what is found to this file, by part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = fetch()
    gguf, sets = str(files.gguf), tokens_of(files)
    sets = replace(sets, calibration=sets.calibration[: arguments.sequences])
    for name in arguments.parts:
        if name == "seeds":
            found = seeds(gguf, arguments)
        else:
            found = {"schemes": schemes, "fisher": fisher}[name](gguf, sets, arguments)
        if arguments.json:
            _keep(arguments, name, found)


def _keep(arguments: argparse.Namespace, name: str, found: Any) -> None:
    path = arguments.json
    kept = json.loads(path.read_text()) if path.is_file() else {}
    made = {key: getattr(arguments, key) for key in ("dtype", "blocks", "sequences", "repeats")}
    kept[name] = {**made, "torch": torch.__version__, "found": found}
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()

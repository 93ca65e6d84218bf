"""What share of each linear is left out: published ratios beside ours, in as many bytes.

SmolLM2-135M, all 210 linears at `int4g64` and some percent, embedding and norms as they are; text
and sizes are those of `bitplan demo`. The budget is that of 50% everywhere.

- `owl` (Yin et al., 2023, "Outlier weighed layerwise sparsity"): a block loses less, by up to 16
  percent of its weights, the more of |W_ij| |x_j| is above five times its mean;
- `cfsp` (Wang et al., 2024), its coarse half: what a block keeps is in proportion to a sigmoid of
  the angle between its input and its output, less the mean angle;
- `besa` (Xu et al., 2024): every block loses as much, its linears what gradients say: `besa.py`;
- `ours`: one solve over the costs of some percents, whole linears each with its own.

The first two take a forward pass, BESA several forward and back through each block, ours the cost
table. Which weights go, and what makes up for
them, is the quantizer's choice in all of them.

    python benchmarks/ratios.py [--quantizer gptq] [--percents 30 40 50 60 70] [--workdir DIR]
"""

import argparse
import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from besa import learned_shares
from torch import Tensor, nn

from bitplan import Budget
from bitplan.allocator import solve
from bitplan.calibration import Counts
from bitplan.footprint import scheme_bytes
from bitplan.models import (
    Inputs,
    blocks_of,
    demo_documents,
    fetch,
    module_of,
    read_outputs,
    weight_of,
)
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.stages import measure_in
from bitplan.schema import CostTable, Kind, Layer, Scheme

COUNTS = Counts(calibration=32, search=8, held_out=16, length=256)
BASE, MEAN = "int4g64", 0.5
TIMES_MEAN, SPREAD = 5.0, 0.08
"""OWL's M and lambda."""
STEEPNESS = 128 * 2048 / 1e4
"""Of CFSP's sigmoid, whose angles are sums over 128 sequences of 2,048 tokens, over 1e4."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantizer", default="gptq")
    parser.add_argument("--percents", type=int, nargs="+", default=[30, 40, 50, 60, 70])
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-ratios"))
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = fetch()
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir)
    tokens = workspace.tokens(demo_documents(files), counts=COUNTS, seed=0)
    menu = [f"{BASE}+{percent}%" for percent in sorted({*args.percents, 50})]
    settings = Settings(
        schemes=[*menu, "bf16"],
        calibration=tokens,
        estimator="gradient_covariance",
        quantizer=args.quantizer,
        workdir=args.workdir,
    )
    table, meter, _ = measure_in(workspace, settings)
    linears = [layer for layer in workspace.layers if layer.kind is Kind.LINEAR]
    others = {layer.name: "bf16" for layer in workspace.layers if layer.kind is not Kind.LINEAR}
    calibration = Inputs.of(tokens.calibration)
    squares, outliers, angles = scores_of(workspace.model, linears, calibration)
    learned = learned_shares(workspace.model, linears, calibration, squares, MEAN)
    uniform = {layer.name: f"{BASE}+50%" for layer in linears}
    budget = sum(scheme_bytes(layer.shape, Scheme.parse(f"{BASE}+50%")) for layer in linears)
    arms: dict[str, Mapping[str, Any]] = {
        "uniform": uniform,
        "owl": whole(linears, of_blocks(linears, by_outliers(outliers)), budget),
        "cfsp": whole(linears, of_blocks(linears, by_angles(angles)), budget),
        "besa": whole(linears, learned, budget),
        "ours": solve(sparse(table), Budget(bytes=_in_all(table, budget)), pins=others).schemes,
    }
    judge = Judge(workspace=workspace, meter=meter, tokens={"held_out": tokens.held_out})
    rows = []
    print("| ratios | bytes of linears | percents | KL | perplexity |\n|---|---|---|---|---|")
    with judge.borrowed():
        for name, arm in arms.items():
            schemes = {layer: Scheme.parse(scheme) for layer, scheme in {**others, **arm}.items()}
            found = judge.measure(schemes, "held_out")
            rows.append(_row(name, linears, schemes) | {"quantizer": args.quantizer})
            rows[-1] |= {"kl": found.mean, "kl_error": found.standard_error}
            rows[-1] |= {"perplexity": found.perplexity}
            print(
                "| {name} | {bytes:,} | {least} to {most} | {kl:.4f} ± {kl_error:.4f} "
                "| {perplexity:.2f} |".format(**rows[-1]),
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


@torch.no_grad()
def scores_of(
    model: nn.Module, layers: list[Layer], tokens: Inputs
) -> tuple[dict[str, Tensor], np.ndarray, np.ndarray]:
    """The squares of each layer's inputs; of each block the share of outliers and its mean angle.

    That is the angle that it turns a token by, over pi.
    """
    squares: dict[str, Tensor] = {}
    turned = [0.0] * len(blocks_of(model))
    with ExitStack() as stack:
        for layer in layers:
            hook = module_of(model, layer).register_forward_pre_hook(_adds(squares, layer.name))
            stack.callback(hook.remove)
        for index, block in enumerate(blocks_of(model)):
            stack.callback(block.register_forward_hook(_turns(turned, index)).remove)
        for index in range(len(tokens)):
            read_outputs(model, tokens[index : index + 1])
    shares = []
    for block in range(len(turned)):
        within = [layer for layer in layers if layer.block == block]
        scores = [weight_of(model, one).abs().float() * squares[one.name].sqrt() for one in within]
        every = torch.cat([score.flatten() for score in scores])
        shares.append((every > TIMES_MEAN * every.mean()).double().mean().item())
    return squares, np.array(shares), np.array(turned) / len(tokens)


def _adds(squares: dict[str, Tensor], name: str):
    def hook(module: nn.Module, args: tuple) -> None:
        found = args[0].float().flatten(0, -2).square().sum(0)
        squares[name] = squares[name] + found if name in squares else found

    return hook


def _turns(turned: list[float], index: int):
    def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        after = output if isinstance(output, Tensor) else output[0]
        cosine = torch.nn.functional.cosine_similarity(args[0].float(), after.float(), dim=-1)
        turned[index] += cosine.clamp(-1, 1).arccos().mean().item() / math.pi

    return hook


def by_outliers(shares: np.ndarray) -> np.ndarray:
    """OWL: what goes of each block, within `SPREAD` of the mean.

    >>> by_outliers(np.array([0.01, 0.02, 0.03])).round(2).tolist()
    [0.58, 0.5, 0.42]
    """
    most = max(np.ptp(shares), 1e-12)
    less = (shares - shares.min()) / most * 2 * SPREAD
    return MEAN + less.mean() - less


def by_angles(angles: np.ndarray) -> np.ndarray:
    """CFSP: what goes of each block.

    >>> by_angles(np.array([0.1, 0.1, 0.1])).round(2).tolist()
    [0.5, 0.5, 0.5]
    """
    weight = 1 / (1 + np.exp(-STEEPNESS * (angles - angles.mean())))
    return 1 - (1 - MEAN) * weight / weight.mean()


def of_blocks(layers: list[Layer], gone: np.ndarray) -> dict[str, float]:
    """What goes of each layer, from what goes of each block."""
    return {layer.name: float(gone[layer.block or 0]) for layer in layers}


def whole(layers: list[Layer], gone: Mapping[str, float], budget: int) -> dict[str, str]:
    """Schemes of whole percents, nearest to what is to go of each layer within the budget."""
    percents = {name: min(99, max(1, math.ceil(100 * share))) for name, share in gone.items()}
    sizes = {
        (layer.name, percent): scheme_bytes(layer.shape, Scheme.parse(f"{BASE}+{percent}%"))
        for layer in layers
        for percent in range(1, 100)
    }

    def size() -> int:
        return sum(sizes[item] for item in percents.items())

    while size() > budget:  # codes are padded, and some were at an end of the percents there are
        percents = {name: min(99, percent + 1) for name, percent in percents.items()}
    for name in sorted(percents, key=lambda name: 100 * gone[name] - percents[name]):
        spare = budget - size() + sizes[name, percents[name]]
        if percents[name] > 1 and sizes[name, percents[name] - 1] <= spare:
            percents[name] -= 1
    return {name: f"{BASE}+{percent}%" for name, percent in percents.items()}


def sparse(table: CostTable) -> CostTable:
    """The table in which linears have sparse schemes alone."""
    rows = [
        row.model_copy(update={"costs": tuple(c for c in row.costs if c.scheme.sparsity)})
        if row.layer.kind is Kind.LINEAR
        else row
        for row in table.rows
    ]
    return table.model_copy(update={"rows": tuple(rows)})


def _in_all(table: CostTable, linears: int) -> int:
    """The budget of a model whose linears take so many bytes, and all else what it takes."""
    kept = [row for row in table.rows if row.layer.kind is not Kind.LINEAR]
    bf16 = Scheme.parse("bf16")
    return table.rest_bytes + linears + sum(scheme_bytes(row.layer.shape, bf16) for row in kept)


def _row(name: str, layers: list[Layer], schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    sparsities = (schemes[layer.name].sparsity for layer in layers)
    percents = [one.percent or 0 if one else 0 for one in sparsities]
    size = sum(scheme_bytes(layer.shape, schemes[layer.name]) for layer in layers)
    return {"name": name, "bytes": size, "least": min(percents), "most": max(percents)}


if __name__ == "__main__":
    main()

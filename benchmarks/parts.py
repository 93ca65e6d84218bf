"""What salient columns and low-rank terms do for the loss of some linears of SmolLM2-135M.

Each is rendered in every scheme; its loss is the weighted error under the covariance of tokens that
the rendering did not see. The last column compares it with plain integers of as many bytes: with
the line between the losses of the two widths on either side, which is what a mix of layers costs.

    python benchmarks/parts.py [--schemes int3g64 int3g64+2%int8 ...] [--layers NAME ...]
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bitplan.calibration import Counts, TokenSets
from bitplan.compress import render
from bitplan.footprint import legal_schemes
from bitplan.models import demo_documents, fetch, weight_of
from bitplan.pipeline import Workspace
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.moments.shrinkage import shrinkage
from bitplan.sensitivity.statistics import LayerStatistics

PLAIN = ["int2g64", "int3g64", "int4g64"]
CHANGES = ["2%int8", "r16"]
SCHEMES = [f"{name}+{change}" for name in PLAIN[:2] for change in CHANGES]
SCHEMES += ["int3g64+1%int8", "int3g64+2%int8+r16"]
LAYERS = ["model.layers.2.self_attn.o_proj", "model.layers.2.mlp.down_proj"]
LAYERS += ["model.layers.20.mlp.up_proj"]


def statistics_of(workspace: Workspace, tokens: TokenSets, layer: Layer) -> LayerStatistics:
    """The covariance of one layer's inputs, gathered for all layers of the workspace at once."""
    meter = workspace.meter(tokens, estimator="gradient_covariance", quantizer="gptq")
    return meter.statistics["data"].completed(layer, ("covariance",))


def found(
    weight: Tensor,
    schemes: tuple[Scheme, ...],
    quantizer: str,
    seen: LayerStatistics,
    unseen: LayerStatistics,
) -> dict[Scheme, tuple[int, float, float]]:
    """Bytes of each scheme, and its loss on the tokens that it was rendered by and on others."""
    rendered = render(
        weight,
        schemes,
        quantizer=quantizer,
        covariance=seen.covariance,
        shrinkage=shrinkage(seen["covariance"]),
    )
    told = {}
    for scheme, packed in rendered.items():
        error = packed.decode() - weight.float()
        one, other = (
            ((error @ statistics.covariance) * error).sum().item() for statistics in (seen, unseen)
        )
        told[scheme] = packed.nbytes, one, other
    return told


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--quantizer", default="gptq")
    parser.add_argument("--workdir")
    args = parser.parse_args()
    files = fetch()
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir)
    layers = tuple(layer for layer in workspace.layers if layer.name in args.layers)
    workspace = replace(workspace, layers=layers)
    counts = Counts(calibration=args.sequences, search=1, held_out=args.sequences, length=256)
    tokens = workspace.tokens(demo_documents(files), counts=counts, seed=0)
    others = replace(tokens, calibration=tokens.held_out)
    print("| layer | scheme | bytes | loss | on unseen tokens | of plain integers' |")
    print("|---|---|---|---|---|---|")
    for layer in layers:
        weight = weight_of(workspace.model, layer)
        schemes = legal_schemes(layer, weight.dtype, [*PLAIN, *args.schemes])
        seen, unseen = (statistics_of(workspace, sets, layer) for sets in (tokens, others))
        told = found(weight, schemes, args.quantizer, seen, unseen)
        sizes, _, plain = zip(*(told[scheme] for scheme in schemes[: len(PLAIN)]), strict=True)
        for scheme, (size, loss, elsewhere) in told.items():
            share = elsewhere / np.interp(size, sizes, plain)
            row = (layer.name, str(scheme), f"{size:,}", f"{loss:.3e}", f"{elsewhere:.3e}")
            print(f"| {' | '.join(row)} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""What tempering the weights of tokens in the covariance does for GPTQ, on SmolLM2-135M.

All 210 linears are rendered in one scheme, with several powers of the squared gradients as weights
of a sequence's tokens (`TEMPER` of `bitplan.sensitivity.moments.covariance`): 1 is the loss's own,
0 weighs them alike. The KL is measured on tokens that calibration did not see; text and sizes are
those of `bitplan demo`.

    python benchmarks/tempering.py [--powers 1 0.5 0] [--workdir DIR]
        [--schemes int2g64 int3g64 int4g64 int8g64+50% int8g64+2:4]

The work folder has a folder of each power: the same command does not gather again.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import torch

from bitplan.calibration import Counts
from bitplan.compress import render
from bitplan.evaluate import compare, make_reference
from bitplan.models import demo_documents, fetch, weight_of
from bitplan.pipeline import Workspace
from bitplan.schema import Kind, Scheme
from bitplan.sensitivity.moments import covariance
from bitplan.sensitivity.moments.shrinkage import shrinkage

SCHEMES = ["int2g64", "int3g64", "int4g64", "int8g64+50%", "int8g64+2:4"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--powers", type=float, nargs="+", default=[1, 0.5, 0])
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-tempering"))
    args = parser.parse_args()
    print("| power | scheme | KL | perplexity |\n|---|---|---|---|")
    for power in args.powers:
        with patch.object(covariance, "TEMPER", power):
            measure(power, [*map(Scheme.parse, args.schemes)], args.workdir / f"{power:g}")


@torch.no_grad()
def measure(power: float, schemes: list[Scheme], workdir: Path) -> None:
    """Print a row for each scheme."""
    files = fetch()
    workspace = Workspace.open(str(files.gguf), workdir=workdir)
    counts = Counts(calibration=32, search=8, held_out=16, length=256)
    tokens = workspace.tokens(demo_documents(files), counts=counts, seed=0)
    meter = workspace.meter(tokens, estimator="gradient_covariance", quantizer="gptq")
    layers = [layer for layer in workspace.layers if layer.kind is Kind.LINEAR]
    weights = [weight_of(workspace.model, layer) for layer in layers]
    originals = [weight.clone() for weight in weights]
    reference = make_reference(workspace.model, tokens.held_out)
    for scheme in schemes:
        for layer, weight, original in zip(layers, weights, originals, strict=True):
            found = meter.statistics["data"].completed(layer, ("covariance",))["covariance"]
            [packed] = render(
                original, [scheme], covariance=found["covariance"], shrinkage=shrinkage(found)
            ).values()
            weight.copy_(packed.decode(weight.dtype))
        one = compare(workspace.model, reference)
        kl = f"{one.mean:.4f} ± {one.standard_error:.4f}"
        print(f"| {power:g} | {scheme} | {kl} | {one.perplexity:.2f} |", flush=True)


if __name__ == "__main__":
    main()

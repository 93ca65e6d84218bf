"""What drawing each covariance to its diagonal does for GPTQ, on SmolLM2-135M.

All 210 linears are rendered in one scheme, with the covariance as it is and drawn to its diagonal
(`bitplan.sensitivity.moments.shrinkage`), and the KL is measured on tokens that calibration did not
see; text and sizes are those of `bitplan demo`.

    python benchmarks/shrinkage.py [--schemes int2g64 int3g64 int4g64] [--workdir DIR]
"""

import argparse

import torch

from bitplan.calibration import Counts
from bitplan.compress import render
from bitplan.evaluate import compare, make_reference
from bitplan.models import demo_documents, fetch, weight_of
from bitplan.pipeline import Workspace
from bitplan.schema import Kind, Scheme
from bitplan.sensitivity.moments.shrinkage import shrinkage


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", nargs="+", default=["int2g64", "int3g64", "int4g64"])
    parser.add_argument("--workdir")
    args = parser.parse_args()
    files = fetch()
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir)
    counts = Counts(calibration=32, search=8, held_out=16, length=256)
    tokens = workspace.tokens(demo_documents(files), counts=counts, seed=0)
    meter = workspace.meter(tokens, estimator="gradient_covariance", quantizer="gptq")
    layers = [layer for layer in workspace.layers if layer.kind is Kind.LINEAR]
    weights = [weight_of(workspace.model, layer) for layer in layers]
    originals = [weight.clone() for weight in weights]
    reference = make_reference(workspace.model, tokens.held_out)
    print("| scheme | covariance | KL | perplexity |\n|---|---|---|---|")
    for scheme in map(Scheme.parse, args.schemes):
        for name in ("as it is", "drawn to its diagonal"):
            for layer, weight, original in zip(layers, weights, originals, strict=True):
                found = meter.statistics["data"].completed(layer, ("covariance",))["covariance"]
                share = shrinkage(found) if name != "as it is" else None
                [packed] = render(
                    original, [scheme], covariance=found["covariance"], shrinkage=share
                ).values()
                weight.copy_(packed.decode(weight.dtype))
            one = compare(workspace.model, reference)
            kl = f"{one.mean:.4f} ± {one.standard_error:.4f}"
            print(f"| {scheme} | {name} | {kl} | {one.perplexity:.2f} |", flush=True)


if __name__ == "__main__":
    main()

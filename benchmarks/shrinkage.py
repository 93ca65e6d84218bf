"""What drawing each covariance to its diagonal does for GPTQ, on SmolLM2-135M.

All 210 linears are rendered in one scheme, with the covariance as it is and drawn to its diagonal
(`bitplan.sensitivity.moments.shrinkage`), and the KL is measured on tokens that calibration did not
see; text and sizes are those of `bitplan demo`.

    python benchmarks/shrinkage.py [--schemes int2g64 int3g64 int4g64] [--workdir DIR]
"""

import argparse
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from bitplan.calibration import Counts
from bitplan.compress import render
from bitplan.evaluate import Divergence, Reference, compare, make_reference
from bitplan.models import demo_documents, fetch, weight_of
from bitplan.pipeline import Workspace
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity import Meter
from bitplan.sensitivity.moments.shrinkage import shrinkage


@dataclass(frozen=True)
class Ground:
    """The model, its statistics, and what it says of the held-out tokens."""

    workspace: Workspace
    meter: Meter
    reference: Reference

    @classmethod
    def of(cls, workdir: str | Path | None) -> "Ground":
        """Gathered, or read where they are there."""
        files = fetch()
        workspace = Workspace.open(str(files.gguf), workdir=workdir)
        counts = Counts(calibration=32, search=8, held_out=16, length=256)
        tokens = workspace.tokens(demo_documents(files), counts=counts, seed=0)
        meter = workspace.meter(tokens, estimator="gradient_covariance", quantizer="gptq")
        return cls(workspace, meter, make_reference(workspace.model, tokens.held_out))

    @cached_property
    def originals(self) -> list[tuple[Layer, Tensor]]:
        """The linears, and what they were."""
        layers = [layer for layer in self.workspace.layers if layer.kind is Kind.LINEAR]
        return [(layer, weight_of(self.workspace.model, layer).clone()) for layer in layers]

    def measure(self, scheme: Scheme, *, shrinks: bool) -> Divergence:
        """All linears in one scheme by GPTQ."""
        for layer, original in self.originals:
            found = self.meter.statistics["data"].completed(layer, ("covariance",))["covariance"]
            share = shrinkage(found) if shrinks else None
            [packed] = render(
                original, [scheme], covariance=found["covariance"], shrinkage=share
            ).values()
            weight_of(self.workspace.model, layer).copy_(packed.decode(original.dtype))
        return compare(self.workspace.model, self.reference)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", nargs="+", default=["int2g64", "int3g64", "int4g64"])
    parser.add_argument("--workdir")
    args = parser.parse_args()
    ground = Ground.of(args.workdir)
    print("| scheme | covariance | KL | perplexity |\n|---|---|---|---|")
    for scheme in map(Scheme.parse, args.schemes):
        for name, shrinks in (("as it is", False), ("drawn to its diagonal", True)):
            print(
                f"| {scheme} | {name} | {told(ground.measure(scheme, shrinks=shrinks))} |",
                flush=True,
            )


def told(one: Divergence) -> str:
    """Two cells of a row."""
    return f"{one.mean:.4f} ± {one.standard_error:.4f} | {one.perplexity:.2f}"


if __name__ == "__main__":
    main()

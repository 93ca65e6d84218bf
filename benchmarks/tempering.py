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
from shrinkage import Ground, told

from bitplan.schema import Scheme
from bitplan.sensitivity.moments import covariance

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
            ground = Ground.of(args.workdir / f"{power:g}")
        for scheme in map(Scheme.parse, args.schemes):
            with torch.no_grad():
                found = ground.measure(scheme, shrinks=True)
            print(f"| {power:g} | {scheme} | {told(found)} |", flush=True)


if __name__ == "__main__":
    main()

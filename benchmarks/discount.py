"""By how much the correlations of inputs are to count less in a loss, on SmolLM2-135M.

Losses of `gradient_covariance` with several values of its `DISCOUNT`, against the truth of
`benchmarks/sensitivity.py`, in whose work folder all is that takes long: rank correlations, and the
median ratio to the measured KL. Then what the loss is without correlations over what it is with all
of them, of weights that GPTQ rendered and of weights rounded to nearest.

    python benchmarks/discount.py [--workdir DIR] [--discounts 0 0.2 0.333 0.5 0.7 1]
"""

import argparse
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import torch
from sensitivity_truth import Ground, Losses, correlations, truth_of
from torch import Tensor

from bitplan.compress import render
from bitplan.models import weight_of
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity import LAYER_ESTIMATORS
from bitplan.sensitivity.estimators import gradient_covariance
from bitplan.sensitivity.estimators.estimator import Part
from bitplan.sensitivity.statistics import LayerStatistics

DISCOUNTS = (0, 0.2, 1 / 3, 0.5, 0.7, 1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="bitplan-sensitivity")
    parser.add_argument("--discounts", type=float, nargs="+", default=DISCOUNTS)
    args = parser.parse_args()
    ground = Ground.of(args.workdir)
    truth = {key: float(values.mean()) for key, values in truth_of(ground).items()}
    with_all, without, of_rounded = {}, {}, []
    for layer, scheme, statistics in _statistics(ground):
        weight = weight_of(ground.workspace.model, layer)
        error = ground.decode(layer, scheme) - weight
        key = layer.name, str(scheme)
        with_all[key], without[key] = _losses(error, weight, statistics)
        if scheme.bits in (3, 4):
            rounded = render(weight, [scheme], quantizer="rtn")[scheme].decode(torch.float32)
            everything, nothing = _losses(rounded - weight, weight, statistics)
            of_rounded.append(nothing / everything)
    print("| discount | all | <= 3 bits | >= 4 | 4 | loss over KL |\n|---|---|---|---|---|---|")
    for discount in args.discounts:
        losses: Losses = {
            key: (1 - discount) * with_all[key] + discount * without[key] for key in truth
        }
        ranks = [f"{found['spearman']:.4f}" for found in correlations(truth, losses).values()]
        ratio = np.median([losses[key] / truth[key] for key in truth])
        print(f"| {discount:.3g} | {' | '.join(ranks)} | {ratio:.2f} |")
    of_gptq = [without[key] / with_all[key] for key in truth if Scheme.parse(key[1]).bits in (3, 4)]
    for name, ratios in (("GPTQ", of_gptq), ("round to nearest", of_rounded)):
        low, middle, high = np.percentile(ratios, [5, 50, 95])
        print(f"{name}, 3 and 4 bits: without over with {middle:.2f} (90%: {low:.2f} - {high:.2f})")


def _statistics(ground: Ground) -> Iterator[tuple[Layer, Scheme, LayerStatistics]]:
    meter = ground.workspace.meter(ground.sets, estimator="gradient_covariance", quantizer="gptq")
    for layer, schemes in ground.schemes.items():
        statistics = meter.statistics["data"].completed(layer, ("covariance",))
        yield from ((layer, scheme, statistics) for scheme in schemes)


def _losses(error: Tensor, weight: Tensor, statistics: LayerStatistics) -> tuple[float, float]:
    """With all of the correlations, and with none; the loss is linear between them."""
    part = Part(error=error, weight=weight, rows=slice(None), norm=1.0, statistics=statistics)
    found = []
    for discount in (0.0, 1.0):
        with patch.object(gradient_covariance, "DISCOUNT", discount):
            found.append(LAYER_ESTIMATORS["gradient_covariance"].judge(part).loss)
    return found[0], found[1]


if __name__ == "__main__":
    main()

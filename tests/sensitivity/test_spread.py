"""Claimed standard errors beside the true spread between samples of calibration sequences."""

import pytest
import torch

from bitplan.calibration import sample_tokens
from bitplan.compress import render
from bitplan.models import find_layers, weight_of
from bitplan.schema import Scheme
from bitplan.sensitivity import get_estimator
from bitplan.sensitivity.estimators import Part

SAMPLES, EACH = 40, 12


def test_claimed_errors_are_the_true_spread_and_shrink_with_more(tiny_model, gathered):
    model = tiny_model("llama")
    layer = next(one for one in find_layers(model) if one.name.endswith("1.mlp.up_proj"))
    weight, scheme = weight_of(model, layer), Scheme.parse("int3")
    tokens = sample_tokens(model, SAMPLES * EACH, 16)
    moments = ["covariance", "fisher"]
    *samples, whole = (
        gathered(model, part, [layer], moments=moments)[layer.name]
        for part in [*tokens.split(EACH), tokens]
    )
    noise = torch.randn(layer.shape, generator=torch.Generator().manual_seed(7))
    errors = {"noise": 0.02 * weight.std() * noise}
    for quantizer in ("rtn", "gptq"):
        packed = render(weight, [scheme], quantizer=quantizer, covariance=whole.covariance)
        errors[quantizer] = packed[scheme].decode() - weight
    rows, norm = slice(0, layer.shape[0]), weight.square().sum().item()
    for name in ("gradient_covariance", "fisher_diagonal"):
        judge = get_estimator(name).judge
        for kind, error in errors.items():
            *losses, of_all = (
                judge(Part(error=error, weight=weight, rows=rows, norm=norm, statistics=one))
                for one in (*samples, whole)
            )
            found = torch.tensor([one.loss for one in losses])
            claimed = torch.tensor([one.standard_error for one in losses]).square().mean().sqrt()
            # 40 samples know their spread to 11%.
            assert 0.75 < claimed / found.std() < 1.35, (name, kind)
            shrunk = claimed.item() / SAMPLES**0.5
            assert of_all.standard_error == pytest.approx(shrunk, rel=0.2)
            # How much each output weighs is a ratio of sums: means of it agree nearly.
            assert of_all.loss == pytest.approx(found.mean().item(), rel=1e-2)

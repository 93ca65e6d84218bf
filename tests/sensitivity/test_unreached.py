"""What calibration never reached: what stands for it, and that it is said once."""

import logging

import pytest
import torch
from torch import Tensor, nn

from bitplan import allocate, measure
from bitplan.calibration import Sizes
from bitplan.schema import Kind, Layer
from bitplan.sensitivity.estimators import ESTIMATORS
from bitplan.sensitivity.statistics import StatisticsFolder

READ_STATISTICS = [
    name
    for name, one in ESTIMATORS.items()
    if getattr(one, "moments", ()) and name != "outlier_ratio"  # which may well be zero
]


class Mixture(nn.Module):
    """Three experts, each a module; a token's number says which of the first `used` it goes to."""

    def __init__(self, used: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(32, 16)
        experts = [nn.ModuleDict({"w1": nn.Linear(16, 16, bias=False)}) for _ in range(3)]
        self.experts = nn.ModuleList(experts)
        self.head = nn.Linear(16, 32, bias=False)
        self.used = used
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def forward(self, input_ids: Tensor) -> object:
        states = self.table(input_ids)
        output = states
        for index in range(self.used):
            chosen = input_ids % self.used == index
            new = self.experts[index]["w1"](states[chosen])
            output = output.masked_scatter(chosen.unsqueeze(-1), new)
        return type("Output", (), {"logits": self.head(output)})


def rows_of(model: nn.Module, tmp_path, estimator: str):
    tokens = torch.randint(0, 32, (8, 12), generator=torch.Generator().manual_seed(1))
    table = measure(
        model,
        calibration=tokens,
        sizes=Sizes(calibration=4, search=2, held_out=2, length=12),
        schemes=["int3", "int8"],
        quantizer="rtn",
        estimator=estimator,
        workdir=tmp_path,
    )
    return {row.layer.name: row.costs for row in table.rows}


@pytest.mark.parametrize("estimator", READ_STATISTICS)
def test_the_mean_of_the_reached_stands_for_an_expert_beside_them(estimator, tmp_path, caplog):
    model = Mixture(used=2)
    with torch.no_grad():  # of equal weights, the loss is that of the mean statistics
        for index in (1, 2):
            model.experts[index]["w1"].weight.copy_(model.experts[0]["w1"].weight)
    with caplog.at_level(logging.WARNING):
        rows = rows_of(model, tmp_path, estimator)
    assert [r.getMessage() for r in caplog.records] == [
        "Calibration never reached experts.2.w1: the mean of the experts beside it stands in. Give "
        "text that makes the model use it."
    ]
    for zero, one, two in zip(*(rows[f"experts.{index}.w1"] for index in range(3)), strict=True):
        low, high = sorted([zero.loss, one.loss])
        assert 0 < low <= two.loss <= high * 1.0001
        if estimator in ("fisher_diagonal", "output_error"):  # linear in their statistics
            assert two.loss == pytest.approx((low + high) / 2, rel=1e-4)
        assert two.standard_error < two.loss  # it is no guess


def test_without_any_reached_the_relative_error_stands_for_the_loss(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        rows = rows_of(Mixture(used=0), tmp_path, "gradient_covariance")
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 3
    assert all("its relative weight error, in nats, stands for its loss" in m for m in messages)
    for index in range(3):
        cost = rows[f"experts.{index}.w1"][0]
        assert cost.loss == cost.standard_error > 0.001


def test_only_the_same_weight_of_other_experts_is_beside(tmp_path):
    folder = StatisticsFolder(folder=tmp_path, sequences=1)
    names = ["a.experts.1.w1", "a.experts.expert_2.w1", "a.experts.1.w2", "b.experts.1.w1", "a.w1"]
    for name in (*names, "a.experts.10.w1"):
        (tmp_path / name).mkdir()
    layer = Layer(name="a.experts.0.w1", kind=Kind.LINEAR, shape=(2, 2))
    beside = [one.name for one in folder._siblings(layer)]
    assert beside == ["a.experts.1.w1", "a.experts.10.w1"]
    assert folder._siblings(Layer(name="a.w1", kind=Kind.LINEAR, shape=(2, 2))) == []
    for name in ("a.mixture.down.1", "a.mixture.down.12", "a.mixture.down.1x", "a.mixture.up.1"):
        (tmp_path / name).mkdir()
    layer = Layer(name="a.mixture.down.0", kind=Kind.EXPERTS, shape=(2, 2))
    beside = [one.name for one in folder._siblings(layer)]
    assert beside == ["a.mixture.down.1", "a.mixture.down.12"]


def test_a_layer_that_no_measured_output_depends_on_is_said_to_be_one_and_once(
    tiny_model, tmp_path, caplog
):
    model = tiny_model("bert", torch.bfloat16)  # its pooler reads the hidden states last
    with caplog.at_level(logging.WARNING):
        plan = allocate(
            model,
            sum(one.nbytes for one in model.parameters()) / 2e9,
            calibration=torch.randint(3, 96, (12, 12), generator=torch.Generator().manual_seed(1)),
            sizes=Sizes(calibration=4, search=4, held_out=4, length=12),
            schemes=["int4", "int8"],
            workdir=tmp_path,
        )
    assert plan.evidence  # it was measured, and a rival's table made beside its own
    messages = [r.getMessage() for r in caplog.records]
    assert messages == [
        "No output that is measured depends on pooler.dense, with these inputs: its relative "
        "weight error, in nats, stands for its loss. Pin a scheme where the output is used "
        "elsewhere."
    ]

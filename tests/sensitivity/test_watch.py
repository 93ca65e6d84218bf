"""What a layer sees: convolutions by their patches, and layers whose output is written into."""

import pytest
import torch
from torch import Tensor, nn

from bitplan.models import find_layers
from bitplan.schema import Kind
from bitplan.sensitivity.watch import Seen, watch


def seen_by(model: nn.Module, inputs: Tensor) -> dict[str, Seen]:
    seen: list[Seen] = []
    with watch(model, find_layers(model), seen.append):
        model(inputs).square().sum().backward()
    assert len({one.layer.name for one in seen}) == len(seen)
    return {one.layer.name: one for one in seen}


def gradients_of(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The gradient of each weight, as torch itself finds it."""
    model.requires_grad_(True)
    model.zero_grad()
    model(inputs).square().sum().backward()
    return {
        name.removesuffix(".weight"): parameter.grad.flatten(1)
        for name, parameter in model.named_parameters()
        if name.endswith("weight") and parameter.grad is not None
    }


def assert_seen_is_all(model: nn.Module, inputs: Tensor) -> None:
    """Inputs and gradients of every layer make up the gradient of its weight: g'x."""
    expected = gradients_of(model, inputs)
    seen = seen_by(model, inputs)
    assert set(seen) == {layer.name for layer in find_layers(model)}
    for name, one in seen.items():
        torch.testing.assert_close(one.gradients.t() @ one.inputs, expected[name])


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
        {"kernel_size": 4, "stride": 4},
        {"kernel_size": 3, "padding": "same", "bias": False},
        {"kernel_size": 1},
    ],
    ids=["plain", "all", "patches", "same", "pointwise"],
)
def test_a_convolution_sees_its_patches(settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, **settings), nn.Tanh(), nn.Conv2d(5, 4, 1))
    assert_seen_is_all(model, torch.randn(2, 3, 12, 12))


@pytest.mark.parametrize(
    "settings", [{"kernel_size": 5, "stride": 2, "padding": 2}, {"kernel_size": 3}]
)
def test_a_convolution_over_time_sees_its_patches(settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 5, **settings), nn.Tanh(), nn.Conv1d(5, 4, 2, dilation=2))
    assert_seen_is_all(model, torch.randn(2, 3, 20))


class Writes(nn.Module):
    """Writes into what its layers return, as some models do: a leaf, and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        states = self.first(inputs)
        states /= 2
        states = self.second(torch.relu_(states))
        states *= 3
        return states


def test_a_layer_whose_output_is_written_into_is_seen_all_the_same():
    torch.manual_seed(0)
    assert_seen_is_all(Writes(), torch.randn(2, 7, 6))
    assert_seen_is_all(Writes(), torch.randn(7, 6))


def test_what_a_model_returns_is_the_same_while_it_is_watched():
    torch.manual_seed(0)
    model, inputs = Writes(), torch.randn(2, 7, 6)
    expected = model(inputs)
    with watch(model, find_layers(model), lambda one: None):
        assert torch.equal(model(inputs), expected)


def test_each_expert_sees_what_the_layer_of_all_of_them_sees(tiny_model):
    tokens = torch.randint(3, 90, (1, 12), generator=torch.Generator().manual_seed(1))
    for name in ("mixtral", "llama4"):
        model = tiny_model(name)
        model.set_experts_implementation("eager")
        together: dict[str, Seen] = {}
        each: dict[str, Seen] = {}

        def keep(one: Seen, of: dict[str, Seen]) -> None:
            number = "" if one.expert is None else f".{one.expert}"
            of[f"{one.layer.name}{number}"] = one

        layers = [one for one in find_layers(model, experts="each") if one.expert is not None]
        some = [one for one in layers if one.expert != 1]
        whole = [one for one in find_layers(model) if one.kind is Kind.EXPERTS]
        for of, watched in ((together, whole), (each, some)):
            with watch(model, watched, lambda one, of=of: keep(one, of)):
                model(tokens).logits.square().sum().backward()
        assert {one.expert for one in each.values()} == {None}
        assert each.keys() == {one.name for one in some} & together.keys()
        assert len(each) > 4
        for layer, one in each.items():
            assert torch.equal(one.inputs, together[layer].inputs)
            assert torch.equal(one.gradients, together[layer].gradients)

"""Statistics of tiny models, as the room gathers them and as they are computed by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitplan.models import find_layers
from bitplan.schema import Layer
from bitplan.sensitivity import StatisticsFolder, WholeModel, gather, winsorize
from bitplan.sensitivity.moments import MOMENTS, covariance
from bitplan.sensitivity.statistics import LayerStatistics

Calls = dict[object, list[tuple[Tensor, Tensor]]]


@pytest.fixture
def as_they_are(monkeypatch) -> None:
    """No sequence is winsorized and no token tempered: sums are those that the formulas give."""
    monkeypatch.setattr(winsorize, "MOST", float("inf"))
    monkeypatch.setattr(covariance, "TEMPER", 1)


@pytest.fixture
def some_tokens() -> Callable[..., Tensor]:
    """Random tokens; the first sequences are the same, however many there are."""

    def tokens_of(sequences: int = 8, length: int = 24) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(3, 96, (sequences, length), generator=generator)

    return tokens_of


@pytest.fixture
def gathered(tmp_path: Path) -> Callable[..., dict[str, LayerStatistics]]:
    """The statistics of a model's layers, by layer name, gathered anew each time."""
    count = 0

    def gather_of(
        model: nn.Module,
        tokens: Tensor,
        layers: Sequence[Layer] | None = None,
        *,
        moments: Sequence[str] = tuple(MOMENTS),
        labels: str = "data",
    ) -> dict[str, LayerStatistics]:
        nonlocal count
        count += 1
        layers = find_layers(model) if layers is None else layers
        folder = StatisticsFolder(folder=tmp_path / f"gathered-{count}", sequences=len(tokens))
        gather(layers, moments, WholeModel(model=model, tokens=tokens, labels=labels), folder)
        return {layer.name: folder.read(layer, moments) for layer in layers}

    return gather_of


class Taps:
    """Inputs x of every matrix, and zeros added to its output whose gradient is g."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: Calls = {}
        for name, module in model.named_modules():
            kind = type(module).__name__
            if kind in {"Linear", "Conv1D"} or isinstance(module, nn.Embedding):
                module.register_forward_hook(self.hook(name))
            if kind == "MixtralExperts":
                module.forward = self.experts(name, module)

    def add(self, key: object, inputs: Tensor, output: Tensor) -> Tensor:
        zeros = torch.zeros_like(output, requires_grad=True)
        self.calls.setdefault(key, []).append((inputs, zeros))
        return output + zeros

    def hook(self, name: str) -> Callable:
        return lambda _, args, output: self.add(name, args[0], output)

    def experts(self, name: str, module: nn.Module) -> Callable:
        def forward(hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
            total = torch.zeros_like(hidden)
            for expert in range(len(module.down_proj)):
                share = (weights * (index == expert)).sum(1)
                rows = (index == expert).any(1).nonzero()[:, 0]
                inputs = hidden[rows]
                middle = inputs @ module.gate_up_proj[expert].T
                middle = self.add((f"{name}.gate_up_proj", expert), inputs, middle)
                gate, up = middle.chunk(2, dim=1)
                inner = nn.functional.silu(gate) * up
                output = inner @ module.down_proj[expert].T
                output = self.add((f"{name}.down_proj", expert), inner, output)
                total = total.index_add(0, rows, output * share[rows, None])
            return total

        return forward


@pytest.fixture
def by_hand() -> Callable[[nn.Module, Tensor], Calls]:
    """Every call of every matrix: what it was given, and the gradient at its output.

    (x [tokens, in], or [tokens] where rows were looked up, g [tokens, out]) by the name of the
    module, or by (name, expert). The model keeps its hooks: give it one of its own.
    """

    def calls_of(model: nn.Module, tokens: Tensor) -> Calls:
        with torch.enable_grad():
            taps = Taps(model)
            told = model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
            loss = -told[:, :-1].gather(-1, tokens[:, 1:, None]).sum()
            flat = [(key, call) for key, calls in taps.calls.items() for call in calls]
            slopes = torch.autograd.grad(loss, [zeros for _, (_, zeros) in flat])
        found: Calls = {}
        for (key, (inputs, _)), slope in zip(flat, slopes, strict=True):
            is_lookup = not inputs.is_floating_point()
            rows = inputs.flatten() if is_lookup else inputs.detach().flatten(0, -2)
            found.setdefault(key, []).append((rows, slope.flatten(0, -2)))
        return found

    return calls_of


@pytest.fixture
def close() -> Callable[[Tensor, Tensor], bool]:
    """Whether RMS(error) is as small, beside RMS(reference), as float32 sums allow."""

    def is_close(found: Tensor, expected: Tensor) -> bool:
        error = (found - expected).square().mean().sqrt()
        return bool(error <= 2e-5 * expected.square().mean().sqrt())

    return is_close

"""The statistics of one pass against an independent computation, and how they are kept."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import find_layers
from bitplan.schema import Kind, Layer
from bitplan.sensitivity import gather
from bitplan.sensitivity.statistics import PROBES, LayerStatistics

TOLERANCE = 2e-5  # RMS(error) / RMS(reference): float32 sums in another order


def tokens_for(sequences: int = 20, length: int = 32) -> Tensor:
    return torch.randint(3, 96, (sequences, length), generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor) -> bool:
    error = (found - expected).square().mean().sqrt()
    return bool(error <= TOLERANCE * expected.square().mean().sqrt())


class Taps:
    """Inputs x of every matrix, and zeros added to its output whose gradient is g."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[object, list[tuple[Tensor | None, Tensor]]] = {}
        self.handles = []
        for name, module in model.named_modules():
            kind = type(module).__name__
            if kind in {"Linear", "Conv1D"} or isinstance(module, nn.Embedding):
                self.handles.append(module.register_forward_hook(self.hook(name)))
            if kind == "MixtralExperts":
                module.forward = self.experts(name, module)

    def add(self, key: object, inputs: Tensor | None, output: Tensor) -> Tensor:
        zeros = torch.zeros_like(output, requires_grad=True)
        self.calls.setdefault(key, []).append((inputs, zeros))
        return output + zeros

    def hook(self, name: str) -> Callable:
        def tap(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            is_lookup = isinstance(module, nn.Embedding)
            return self.add(name, None if is_lookup else args[0], output)

        return tap

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


def by_hand(model: nn.Module, tokens: Tensor) -> dict[object, list[tuple[Tensor | None, Tensor]]]:
    """(x [tokens, in] or None, g [tokens, out]) of every call of every matrix."""
    with torch.enable_grad():
        taps = Taps(model)
        told = model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
        loss = -told[:, :-1].gather(-1, tokens[:, 1:, None]).sum()
        flat = [(key, call) for key, calls in taps.calls.items() for call in calls]
        slopes = torch.autograd.grad(loss, [zeros for _, (_, zeros) in flat])
    found: dict[object, list[tuple[Tensor | None, Tensor]]] = {}
    for (key, (inputs, _)), slope in zip(flat, slopes, strict=True):
        rows = None if inputs is None else inputs.detach().flatten(0, -2)
        found.setdefault(key, []).append((rows, slope.flatten(0, -2)))
    return found


def expected(layer: Layer, calls: dict, expert: int | None = None) -> tuple[Tensor, Tensor, int]:
    """sum_t mean_o(g^2) x x', sum_t g^2 x^2, and the number of rows."""
    covariance = torch.zeros(layer.shape[-1], layer.shape[-1])
    fisher, rows = torch.zeros(layer.shape[-2:]), 0
    for name in (layer.name, *layer.tied):
        for inputs, slopes in calls[name if expert is None else (name, expert)]:
            rows += len(slopes)
            if inputs is None:
                covariance += torch.diag(slopes.square().sum(0)) / layer.shape[0]
            else:
                weight = slopes.square().mean(1)
                covariance += torch.einsum("t,ti,tj->ij", weight, inputs, inputs)
                fisher += torch.einsum("to,ti->oi", slopes.square(), inputs.square())
    return covariance, fisher, rows


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "mixtral"])
def test_the_statistics_are_those_computed_by_hand(name, tiny_model, tmp_path):
    model, tokens = tiny_model(name), tokens_for()
    layers = find_layers(model)
    found = gather(model, layers, tokens, tmp_path / "found", fisher=True)
    calls = by_hand(tiny_model(name), tokens)
    assert found.tokens == tokens.numel()
    for layer in layers:
        statistics = found[layer.name]
        experts = range(layer.shape[0]) if layer.kind is Kind.EXPERTS else [None]
        for expert in experts:
            at = () if expert is None else (expert,)
            covariance, fisher, rows = expected(layer, calls, expert)
            assert close(statistics.covariance[at], covariance), layer.name
            assert statistics.rows[at] == rows
            if layer.kind is Kind.EMBEDDING:
                assert statistics.fisher is None
            else:
                assert close(statistics.fisher[at], fisher), layer.name


def test_an_expert_sees_only_the_tokens_that_are_routed_to_it(tiny_model, tmp_path):
    model, tokens = tiny_model("mixtral"), tokens_for()
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.EXPERTS]
    found = gather(model, layers, tokens, tmp_path / "found")
    for layer in layers:
        rows = found[layer.name].rows
        assert rows.sum() == 2 * tokens.numel()  # two experts a token
        assert (rows < tokens.numel()).all()
        assert len(set(rows.tolist())) > 1


@pytest.mark.parametrize("name", ["gpt-oss", "llama4"])
def test_experts_are_seen_however_they_are_multiplied(name, tiny_model, tmp_path):
    model, tokens = tiny_model(name), tokens_for()
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.EXPERTS]
    found = gather(model, layers, tokens, tmp_path / "found", fisher=True)
    assert layers
    for layer in layers:
        statistics, shape = found[layer.name], layer.shape
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1e-3
        assert statistics.reached.any()
        assert statistics.covariance.shape == (shape[0], shape[2], shape[2])
        # The diagonal Fisher knows each output, H their mean: over random errors they agree.
        by_h = ((weight @ statistics.covariance) * weight).sum()
        by_fisher = (statistics.fisher * weight.square()).sum()
        assert by_h == pytest.approx(by_fisher.item(), rel=0.3)


def test_a_scaled_embedding_scales_the_errors_of_its_rows(tiny_model, tmp_path):
    model, tokens = tiny_model("gemma"), tokens_for()
    [layer] = [one for one in find_layers(model) if one.kind is Kind.EMBEDDING]
    factor = float(model.model.embed_tokens.embed_scale)
    assert factor > 2
    calls = by_hand(tiny_model("gemma"), tokens)
    _, slopes = calls[layer.name][0]
    lookups = slopes.square().sum(0) * factor**2 / layer.shape[0]
    inputs, slopes = calls["lm_head"][0]
    head = torch.einsum("t,ti,tj->ij", slopes.square().mean(1), inputs, inputs)
    found = gather(model, [layer], tokens, tmp_path / "found")[layer.name]
    assert close(found.covariance, head + torch.diag(lookups))


def test_probes_are_unbiased_also_over_several_calls_in_one_batch():
    layer = Layer(name="a", kind=Kind.LINEAR, shape=(6, 24))
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    inputs, slopes, error = draw(24, 24), draw(24, 6), draw(6, 24)
    again = inputs + 0.1 * draw(24, 24)
    sums = []
    for start in range(600):
        statistics = LayerStatistics.zeros(layer, batches=1)
        statistics.rows += 1000 * start  # other signs every time
        statistics.add(inputs, slopes, batch=0)
        statistics.add(again, slopes, batch=0)
        statistics.add_lookup(draw(24, 24) * 0 + 1, batch=0, vocabulary=4)
        sums.append((error @ statistics.probes[0].T).square().sum(0).mean().item())
    probed = torch.tensor(sums)
    exact = ((error @ statistics.covariance) * error).sum()
    noise = probed.std() / len(probed) ** 0.5
    assert statistics.probes.shape == (1, PROBES, 24)
    assert abs(probed.mean() - exact) < 3 * noise
    assert noise < 0.05 * exact


def snapshot(model: nn.Module) -> dict:
    hooks = [
        len(table)
        for module in model.modules()
        for table in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    ]
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "hooks": hooks,
        "config": model.config.to_dict(),
        "experts": model.get_experts_implementation(),
        "training": [module.training for module in model.modules()],
    }


def same(one: dict, other: dict) -> bool:
    weights = one.pop("weights"), other.pop("weights")
    return one == other and all(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0]
    )


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("outcome", ["done", "interrupted", "failed"])
def test_the_model_stays_as_it_was(name, outcome, tiny_model, tmp_path):
    model = tiny_model(name)
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before, layers = snapshot(model), find_layers(model)
    if outcome == "done":
        gather(model, layers, tokens_for(), tmp_path / "found")
    else:
        error = KeyboardInterrupt if outcome == "interrupted" else ZeroDivisionError

        def stop(*_: object) -> None:
            raise error

        handle = model.get_input_embeddings().register_forward_hook(stop)
        with pytest.raises(error):
            gather(model, layers, tokens_for(), tmp_path / "found")
        handle.remove()
    assert same(before, snapshot(model))


def test_an_interrupt_at_any_batch_changes_no_byte(tiny_model, tmp_path):
    model, tokens = tiny_model("mixtral"), tokens_for(sequences=70)
    layers = find_layers(model)
    gather(model, layers, tokens, tmp_path / "whole", fisher=True)
    expected = (tmp_path / "whole").read_bytes()
    seen = []
    gather(model, layers, tokens, tmp_path / "told", progress=lambda *now: seen.append(now))
    batches = seen[-1][2]
    assert [done for _, done, _ in seen] == list(range(batches + 1))
    assert batches == 5
    for stop_at in range(batches + 1):
        path = tmp_path / f"stopped-{stop_at}"

        def stop(stage: str, done: int, total: int, at: int = stop_at) -> None:
            if done == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            gather(model, layers, tokens, path, fisher=True, progress=stop)
        if stop_at == batches:
            assert path.read_bytes() == expected  # the last word comes after the work
        else:
            assert not path.exists()
        seen.clear()
        gather(model, layers, tokens, path, fisher=True, progress=lambda *now: seen.append(now))
        assert path.read_bytes() == expected
        assert len(seen) == (batches + 1 - stop_at if stop_at < batches else 0)
        assert not path.with_name(path.name + ".partial").exists()


# Python drops an interrupt that comes while it finalizes an object, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_instant_change_no_byte(tiny_model, tmp_path):
    model, tokens = tiny_model("mixtral"), tokens_for(sequences=70)
    layers = find_layers(model)
    gather(model, layers, tokens, tmp_path / "whole", fisher=True)

    interrupts: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    chance = random.Random(0)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            already = len(interrupts)
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.002, 0.03))
                gather(model, layers, tokens, tmp_path / "stopped", fisher=True)
                signal.setitimer(signal.ITIMER_REAL, 0)
                (tmp_path / "stopped").unlink()
            except BaseException:
                # Not only KeyboardInterrupt: torch's own code may make another error of it.
                if len(interrupts) == already:
                    raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    gather(model, layers, tokens, tmp_path / "stopped", fisher=True)
    assert len(interrupts) > 10
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"no safetensors at all")


@pytest.mark.parametrize("damage", [cut, empty, garble])
@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_a_damaged_file_is_measured_again(damage, suffix, tiny_model, tmp_path):
    model, tokens, path = tiny_model("llama-tied"), tokens_for(), tmp_path / "found"
    layers = find_layers(model)
    gather(model, layers, tokens, path)
    expected = path.read_bytes()
    damaged = path.with_name(path.name + suffix)
    path.replace(damaged)
    damage(damaged)
    gather(model, layers, tokens, path)
    assert path.read_bytes() == expected


def test_a_file_of_other_statistics_is_measured_again(tiny_model, tmp_path):
    model, path = tiny_model("llama-tied"), tmp_path / "found"
    layers = find_layers(model)
    gather(model, layers, tokens_for(), path, fisher=True)
    expected = path.read_bytes()
    for other in ({"fisher": False}, {"tokens": tokens_for(90), "fisher": True}):
        gather(model, layers, **{"tokens": tokens_for(), "path": path, **other})
        assert path.read_bytes() != expected
    gather(model, layers, tokens_for(), path, fisher=True)
    assert path.read_bytes() == expected


def test_a_loss_that_is_not_finite_is_refused(tiny_model, tmp_path):
    model = tiny_model("llama")
    model.lm_head.weight.data[5] = torch.inf
    with pytest.raises(ModelError, match="loss on calibration batch 0 is not finite"):
        gather(model, find_layers(model), tokens_for(), tmp_path / "found")
    assert not any(tmp_path.iterdir())


def test_a_gradient_that_is_not_finite_is_refused(tiny_model, tmp_path):
    model = tiny_model("llama")
    model.model.layers[1].register_forward_hook(
        lambda _, __, output: output + torch.sqrt(torch.abs(output * 0))  # 0, of infinite slope
    )
    with pytest.raises(ModelError, match=r"gradient at .* is not finite"):
        gather(model, find_layers(model), tokens_for(), tmp_path / "found")


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_model_that_predicts_no_next_token_is_refused(name, tiny_model, tmp_path):
    model = tiny_model(name)
    with pytest.raises(ModelError, match="no next-token logits"):
        gather(model, find_layers(model), tokens_for(), tmp_path / "found")

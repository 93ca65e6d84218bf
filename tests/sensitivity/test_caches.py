"""What rounding keys and values costs: against the KL that it really makes, and how it is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.evaluate import compare, make_reference
from bitplan.footprint import default_cache_schemes, legal_schemes, scheme_bytes
from bitplan.models import find_caches, rounded_caches
from bitplan.schema import Layer, Row, Scheme
from bitplan.sensitivity import cache_rows

MODELS = ["llama", "gpt2", "gemma-window", "mixtral"]
MENU = ("int2g32", "int4g32", "int8g32", "fp32")


def tokens_for(sequences: int = 20, length: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 96, (sequences, length), generator=generator)


def menu_of(model: nn.Module, menu: tuple[str, ...] = MENU) -> dict[Layer, tuple[Scheme, ...]]:
    return {
        cached.layer: legal_schemes(cached.layer, "float32", menu)
        for cached in find_caches(model, context=40, batch=2)
    }


def losses_of(rows: tuple[Row, ...]) -> dict[tuple[str, str], float]:
    return {(row.layer.name, str(cost.scheme)): cost.loss for row in rows for cost in row.costs}


@pytest.mark.parametrize("name", MODELS)
def test_predicted_losses_are_those_that_single_swaps_make(name, tiny_model, tmp_path):
    model, tokens = tiny_model(name), tokens_for()
    rows = cache_rows(model, menu_of(model), tokens, tmp_path)
    reference = make_reference(model, tokens)
    predicted, measured = [], []
    for row in rows:
        for cost in row.costs:
            if cost.scheme.is_float:
                assert cost.loss == cost.standard_error == 0
                continue
            with rounded_caches(model, {row.layer.name: cost.scheme}):
                measured.append(compare(model, reference).mean)
            predicted.append(cost.loss)
            assert cost.bytes == scheme_bytes(row.layer.shape, cost.scheme)
            assert 0 < cost.standard_error < cost.loss
    assert spearmanr(predicted, measured)[0] > 0.95
    ratios = np.array(predicted) / np.array(measured)
    # Routers turn a small change into another expert, which no gradient sees.
    assert 0.4 < np.median(ratios) < 1.6, ratios


@pytest.mark.parametrize("length", [16, 33])
def test_it_is_the_fisher_information_at_the_vectors(length, tiny_model, tmp_path):
    """Against gradients of each sequence on its own, through a cache made of leaves."""
    from transformers import DynamicCache

    model, tokens = tiny_model("llama"), tokens_for(3, length)
    rows = cache_rows(model, menu_of(model), tokens, tmp_path)
    found = losses_of(rows)
    expected = {key: [] for key in found}
    for sequence in tokens.split(1):
        leaves: dict[str, tuple[Tensor, Tensor]] = {}

        class Leaves(DynamicCache):
            def update(self, keys, values, layer_idx, *args, leaves=leaves, **keywords):
                for kind, states in (("keys", keys), ("values", values)):
                    zeros = torch.zeros_like(states, requires_grad=True)
                    name = f"model.layers.{layer_idx}.self_attn.{kind}"
                    leaves[name] = (states.detach(), zeros)
                read = [leaves[f"model.layers.{layer_idx}.self_attn.{k}"] for k in KINDS]
                return keys + read[0][1], values + read[1][1]

        logits = model(input_ids=sequence, past_key_values=Leaves(config=model.config)).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], sequence[0, 1:], reduction="sum")
        loss.backward()
        for name, scheme in expected:
            states, zeros = leaves[name]
            assert zeros.grad is not None
            # [tokens, heads x dim], as a weight of so many rows
            rows_ = states[0].transpose(0, 1).flatten(1)
            slopes = zeros.grad[0].transpose(0, 1).flatten(1)
            error = rendered(rows_, scheme) - rows_
            expected[name, scheme].append((error * slopes).square().sum().item() / 2 / length)
    for key, losses in expected.items():
        assert found[key] == pytest.approx(np.mean(losses), rel=1e-4, abs=1e-12)


KINDS = ("keys", "values")


def rendered(rows: Tensor, scheme: str) -> Tensor:
    from bitplan.compress import render

    parsed = Scheme.parse(scheme)
    return render(rows, [parsed], quantizer="rtn")[parsed].decode()


def test_gradients_and_parameters_stay_as_they_are(tiny_model, tmp_path):
    model = tiny_model("llama").requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cache_rows(model, menu_of(model), tokens_for(4), tmp_path)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model._forward_pre_hooks


class Stop:
    """A progress that is interrupted at one of its calls."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls += 1
        if self.calls > self.at:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_where_it_was(tiny_model, tmp_path):
    model, tokens = tiny_model("llama"), tokens_for(50)  # 4 batches
    whole = cache_rows(model, menu_of(model), tokens, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        cache_rows(model, menu_of(model), tokens, tmp_path / "cut", progress=Stop(2))
    half = json.loads((tmp_path / "cut" / "int4.json").read_text())
    assert {len(losses) for losses in half.values()} == {32}
    assert cache_rows(model, menu_of(model), tokens, tmp_path / "cut") == whole
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_another_scheme_measures_only_itself(tiny_model, tmp_path):
    model, tokens, folder = tiny_model("llama"), tokens_for(4), tmp_path / "both"
    cache_rows(model, menu_of(model), tokens, folder)
    before = files_of(folder)
    # Weights that would give another answer, were anything measured again.
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    added = cache_rows(model, menu_of(model, (*MENU, "int3g32")), tokens, folder)
    alone = cache_rows(model, menu_of(model, ("int3g32",)), tokens, tmp_path / "alone")
    assert {name: text for name, text in files_of(folder).items() if name in before} == before
    assert losses_of(alone).items() <= losses_of(added).items()


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"a": 5}', '{"a": ["x"]}', "\x00"])
def test_a_damaged_file_is_measured_again(damage, tiny_model, tmp_path):
    model, tokens = tiny_model("llama"), tokens_for(4)
    rows = cache_rows(model, menu_of(model), tokens, tmp_path)
    (tmp_path / "int4.json").write_text(damage)
    assert cache_rows(model, menu_of(model), tokens, tmp_path) == rows


def test_what_is_not_finite_is_refused(tiny_model, tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.inf
    with pytest.raises(ModelError, match="loss on calibration sequences from 0 is not finite"):
        cache_rows(model, menu_of(model), tokens_for(4), tmp_path)


def test_another_width_than_the_configs_is_refused(tiny_model, tmp_path):
    model = tiny_model("llama")
    menu = {
        layer.model_copy(update={"shape": (80, 24)}): schemes
        for layer, schemes in menu_of(model).items()
    }
    with pytest.raises(ModelError, match=r"caches 16 numbers a token, .*config says 24"):
        cache_rows(model, menu, tokens_for(4), tmp_path)


def test_the_default_menu_groups_within_heads():
    def names(dtype: str, head_dim: int) -> list[str]:
        return list(map(str, default_cache_schemes(dtype, head_dim)))

    both = [f"int{bits}g{group}" for bits in (2, 4, 8) for group in (32, 64)]
    assert names("bfloat16", 128) == [*both, "bf16"]
    assert names("float32", 96) == ["int2g32", "int4g32", "int8g32", "bf16", "fp32"]
    assert names("float16", 80) == ["int2g32", "int4g32", "int8g32", "fp16"]

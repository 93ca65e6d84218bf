"""The whole model, sequence by sequence: what it tells, and that the model stays as it was."""

from contextlib import closing

import pytest
import torch
from torch import nn

from bitplan.models import find_layers
from bitplan.schema import Kind
from bitplan.sensitivity import WholeModel


def test_all_layers_are_one_group(tiny_model, some_tokens):
    model = tiny_model("llama")
    through = WholeModel(model=model, tokens=some_tokens(3, 20))
    layers = find_layers(model)
    assert list(through.groups(layers)) == [list(layers)]
    assert list(through.groups([])) == []
    assert through.tokens_each == 20


def test_every_layer_sees_every_token_of_each_sequence(tiny_model, some_tokens):
    model, tokens = tiny_model("mixtral"), some_tokens(4, 20)
    layers = find_layers(model)
    told = []
    through = WholeModel(model=model, tokens=tokens, progress=lambda *now: told.append(now))
    for sequence, seen in through.run(layers, first=1):
        for layer in layers:
            mine = [one for one in seen if one.layer == layer]
            # A token goes to two experts of three.
            times = 2 if layer.kind is Kind.EXPERTS else 1
            assert sum(len(one.gradients) for one in mine) == 20 * times, layer.name
            for one in mine:
                assert one.is_lookup == (layer.kind is Kind.EMBEDDING)
                assert one.gradients.shape[1] == layer.shape[-1 if one.is_lookup else -2]
                if one.is_lookup:
                    assert torch.equal(one.inputs, tokens[sequence])
    assert told == [("statistics", done, 4) for done in range(1, 5)]


def test_an_expert_sees_only_the_tokens_that_are_routed_to_it(tiny_model, some_tokens, gathered):
    model, tokens = tiny_model("mixtral"), some_tokens(20, 32)
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.EXPERTS]
    found = gathered(model, tokens, layers)
    for layer in layers:
        rows = found[layer.name].rows
        assert rows.sum() == 2 * tokens.numel()  # two experts a token
        assert (rows < tokens.numel()).all()
        assert len(set(rows.tolist())) > 1


def test_a_sequence_whose_loss_is_not_finite_has_no_calls(tiny_model, some_tokens):
    model, tokens = tiny_model("llama"), some_tokens(3)
    tokens[1, 5] = 2  # no other sequence has this token
    model.model.embed_tokens.weight.data[2] = torch.nan
    seen = dict(WholeModel(model=model, tokens=tokens).run(find_layers(model)))
    assert [seen[index] is None for index in range(3)] == [False, True, False]


def snapshot(model: nn.Module) -> dict:
    hooks = [
        len(table)
        for module in model.modules()
        for table in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    ]
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "types": [type(parameter) for parameter in model.parameters()],
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
@pytest.mark.parametrize("outcome", ["done", "abandoned", "interrupted", "failed"])
def test_the_model_stays_as_it_was(name, outcome, tiny_model, some_tokens):
    model, tokens = tiny_model(name), some_tokens(3)
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before, layers = snapshot(model), find_layers(model)
    through = WholeModel(model=model, tokens=tokens)
    if outcome == "done":
        assert len(list(through.run(layers))) == 3
    elif outcome == "abandoned":
        with closing(through.run(layers)) as run:
            next(run)
            assert not same(before | {}, snapshot(model))
    else:
        error = KeyboardInterrupt if outcome == "interrupted" else ZeroDivisionError

        def stop(*_: object) -> None:
            raise error

        handle = model.get_input_embeddings().register_forward_hook(stop)
        with pytest.raises(error):
            list(through.run(layers))
        handle.remove()
    assert same(before, snapshot(model))

"""What can be left out of a model whole."""

import pytest

from bitplan.errors import SchemeError
from bitplan.models import find_layers, find_sublayers


def test_sublayers_of_llama_are_attention_and_feed_forward(tiny_model):
    model = tiny_model("llama-tied")
    found = find_sublayers(model, find_layers(model))
    assert [one.name.removeprefix("model.layers.") for one in found] == [
        "0.self_attn",
        "0.mlp",
        "1.self_attn",
        "1.mlp",
    ]
    leaves = [[name.rpartition(".")[2] for name in one.layers] for one in found[:2]]
    assert leaves == [
        ["q_proj", "k_proj", "v_proj", "o_proj"],
        ["gate_proj", "up_proj", "down_proj"],
    ]


def test_sublayers_of_gpt2_are_of_two_layers(tiny_model):
    model = tiny_model("gpt2")
    found = find_sublayers(model, find_layers(model))
    assert [name for one in found[:2] for name in one.layers] == [
        f"transformer.h.0.{name}"
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]


@pytest.mark.parametrize("name", ["mixtral", "bert", "gemma"])
def test_other_models_are_refused_by_name(name, tiny_model):
    model = tiny_model(name)
    with pytest.raises(SchemeError, match=f"those of {type(model).__name__} are is not known"):
        find_sublayers(model, find_layers(model))


def test_layers_that_are_missing_are_named(tiny_model):
    model = tiny_model("llama-tied")
    some = [layer for layer in find_layers(model) if not layer.name.endswith("k_proj")]
    with pytest.raises(SchemeError, match=r"0\.self_attn\.k_proj .* is not a layer of its own"):
        find_sublayers(model, some)

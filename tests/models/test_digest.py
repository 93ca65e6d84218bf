import pytest
import torch
from torch import nn

from bitplan.errors import ModelError
from bitplan.models import check_finite, digest, find_layers, model_digest


def digest_of(model: nn.Module) -> str:
    return model_digest(model, find_layers(model))


def test_it_does_not_depend_on_the_dtype_a_model_is_loaded_in(tiny):
    for name in ["llama-tied", "gpt2", "gpt-oss"]:
        assert digest_of(tiny(name)) == digest_of(tiny(name, torch.bfloat16))


def test_it_does_not_depend_on_the_size_of_chunks(tiny, monkeypatch):
    whole = digest_of(tiny("gpt-oss"))
    monkeypatch.setattr(digest, "CHUNK", 100)
    assert digest_of(tiny("gpt-oss")) == whole


def test_it_does_not_depend_on_the_side_a_matrix_is_stored_from():
    from transformers.pytorch_utils import Conv1D

    conv, linear = nn.Sequential(Conv1D(5, 3)), nn.Sequential(nn.Linear(3, 5))
    linear[0].weight.data = conv[0].weight.data.T.contiguous()
    assert digest_of(conv) == digest_of(linear)


def test_it_sees_one_changed_weight_and_ignores_the_rest(tiny):
    model = tiny("mixtral")
    before = digest_of(model)
    model.model.norm.weight.data += 1
    assert digest_of(model) == before
    model.model.layers[1].mlp.experts.down_proj.data[2, 3, 4] += 1
    assert digest_of(model) != before


def test_it_sees_names_and_shapes():
    weight = torch.randn(24)
    digests = set()
    for name, shape in [("a", (4, 6)), ("a", (6, 4)), ("b", (4, 6))]:
        model = nn.ModuleDict({name: nn.Linear(shape[1], shape[0])})
        model[name].weight.data = weight.view(shape)
        digests.add(digest_of(model))
    assert len(digests) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(tiny, value):
    model = tiny("gpt2", torch.bfloat16)
    check_finite(model, find_layers(model))
    model.transformer.h[1].mlp.c_fc.weight.data[3, 4:7] = value
    with pytest.raises(ModelError, match=r"h\.1\.mlp\.c_fc holds 3 of 4,096 values that are NaN"):
        check_finite(model, find_layers(model))


def test_a_norm_that_is_not_finite_is_named_too(tiny):
    model = tiny("llama")
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds 1 of 32"):
        check_finite(model, find_layers(model))


def test_experts_are_checked_whatever_way_round_they_are_stored(tiny):
    model = tiny("gpt-oss")
    model.model.layers[0].mlp.experts.down_proj.data[1, 2, 3] = float("inf")
    with pytest.raises(ModelError, match=r"experts\.down_proj holds 1 of"):
        check_finite(model, find_layers(model))

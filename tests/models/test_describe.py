import pytest
import torch
from torch import nn

from bitplan.footprint import default_schemes, legal_schemes, scheme_bytes
from bitplan.models import describe, find_layers, load_model
from bitplan.models.classify import Why


def held_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, each once: torch itself leaves out what it has seen."""
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def test_layers_and_rest_add_up_to_the_whole(model):
    description = describe(model)
    assert description.bytes == held_bytes(model)
    assert description.bytes == description.rest_bytes + sum(x.bytes for x in description.layers)
    assert description.parameters == sum(p.numel() for p in model.parameters())
    assert tuple(x.layer for x in description.layers) == find_layers(model)


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
def test_a_folder_is_described_as_its_model_is(name, tiny_folder):
    folder = tiny_folder(name)
    model = load_model(folder)
    assert describe(folder) == describe(str(folder)) == describe(model)


def test_a_module_stays_in_its_mode(tiny):
    model = tiny("llama").train()
    describe(model)
    assert model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_extremes_of_the_default_menu(tiny, dtype):
    model = tiny("llama-tied", dtype)
    description = describe(model)
    menu = default_schemes(dtype)
    sizes = [
        [scheme_bytes(layer.shape, scheme) for scheme in legal_schemes(layer, dtype, menu)]
        for layer in find_layers(model)
    ]
    assert description.smallest_bytes == description.rest_bytes + sum(map(min, sizes))
    assert description.largest_bytes == description.rest_bytes + sum(map(max, sizes))
    assert description.largest_bytes == description.bytes
    assert description.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", {Why.NORM, Why.BUFFER}),
        ("gpt2", {Why.NORM, Why.BIAS, Why.POSITION}),
        ("mixtral", {Why.NORM, Why.BUFFER, Why.ROUTER}),
        ("gpt-oss", {Why.NORM, Why.BUFFER, Why.ROUTER, Why.BIAS, Why.OTHER}),
        ("bert", {Why.NORM, Why.BIAS, Why.POSITION, Why.BUFFER}),
        ("mamba", {Why.NORM, Why.BIAS, Why.GROUPED, Why.READ_BY_PARENT, Why.OTHER}),
    ],
)
def test_what_is_left_and_why(tiny, name, expected):
    assert {item.why for item in describe(tiny(name)).rest} == expected


def test_buffers_that_are_not_saved_take_memory_too():
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    model.register_buffer("cache", torch.zeros(10), persistent=False)
    description = describe(model)
    assert [(item.name, item.bytes, item.why) for item in description.rest] == [
        ("cache", 40, Why.BUFFER)
    ]
    assert description.bytes == 4 * 4 * 4 + 40


def test_a_buffer_that_shares_a_parameter_is_not_counted_again():
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    model.register_buffer("again", model[0].weight.data)
    assert describe(model).bytes == 64


def test_a_model_without_layers_can_be_described():
    description = describe(nn.Sequential(nn.LayerNorm(4)))
    assert description.layers == ()
    assert description.smallest_bytes == description.largest_bytes == description.bytes == 32
    assert description.name == "Sequential"


def test_it_is_a_record(tiny):
    description = describe(tiny("t5"))
    assert type(description).model_validate_json(description.model_dump_json()) == description
    with pytest.raises(ValueError, match="its parts add up to"):
        type(description).model_validate({**description.model_dump(), "bytes": 1})

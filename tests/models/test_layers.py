import pytest
import torch
from torch import nn

from bitplan.errors import ModelError
from bitplan.models import find_layers, module_of, weight_of
from bitplan.models.classify import Why
from bitplan.models.scan import scan
from bitplan.schema import Kind, Layer


def by_name(model: nn.Module) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(model)}


def fused(model: nn.Module, key: str) -> list[str]:
    return [layer.name.rpartition(".")[2] for layer in find_layers(model) if layer.fuse == key]


def test_llama(tiny):
    expected = [("model.embed_tokens", Kind.EMBEDDING, (64, 32), None)]
    for block in range(2):
        expected += [
            (f"model.layers.{block}.{name}", Kind.LINEAR, shape, block)
            for name, shape in {
                "self_attn.q_proj": (32, 32),
                "self_attn.k_proj": (16, 32),
                "self_attn.v_proj": (16, 32),
                "self_attn.o_proj": (32, 32),
                "mlp.gate_proj": (48, 32),
                "mlp.up_proj": (48, 32),
                "mlp.down_proj": (32, 48),
            }.items()
        ]
    expected.append(("lm_head", Kind.LINEAR, (64, 32), None))
    found = find_layers(tiny("llama"))
    assert [(layer.name, layer.kind, layer.shape, layer.block) for layer in found] == expected
    assert all(layer.tied == () for layer in found)


@pytest.mark.parametrize(
    ("name", "layer", "tied"),
    [
        ("llama-tied", "model.embed_tokens", ("lm_head",)),
        ("gpt2", "transformer.wte", ("lm_head",)),
        ("bert-masked", "bert.embeddings.word_embeddings", ("cls.predictions.decoder",)),
        ("t5", "shared", ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")),
    ],
)
def test_a_tied_head_is_counted_with_its_embedding(tiny, name, layer, tied):
    layers = by_name(tiny(name))
    assert layers[layer].kind is Kind.EMBEDDING
    assert layers[layer].tied == tied
    assert not set(tied) & set(layers)


def test_linears_tied_to_each_other_are_one_layer():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    model[2].weight = model[0].weight
    layers = find_layers(model)
    assert [(layer.name, layer.tied) for layer in layers] == [("0", ("2",)), ("1", ())]


def test_a_module_used_twice_is_one_layer():
    model = nn.Sequential()
    model.add_module("a", nn.Linear(8, 8))
    model.add_module("b", model.a)
    assert [(layer.name, layer.tied) for layer in find_layers(model)] == [("a", ("b",))]


def test_ties_show_without_memory_too():
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8), nn.Linear(4, 8))
    model[1].weight = model[0].weight
    assert [layer.tied for layer in find_layers(model)] == [("1",), ()]


def test_slices_of_one_storage_are_layers_of_their_own():
    whole = torch.randn(2, 4, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight, model[1].weight = nn.Parameter(whole[0]), nn.Parameter(whole[1])
    assert [layer.tied for layer in find_layers(model)] == [(), ()]


def test_a_weight_that_something_else_reads_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.register_parameter("also", model[0].weight)
    assert [layer.name for layer in find_layers(model)] == ["1"]


def test_one_storage_read_in_two_ways_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(4, 4))
    model.add_module("other", nn.Linear(6, 4))
    model.other.weight = nn.Parameter(model[0].weight.data.view(4, 6))
    assert [layer.name for layer in find_layers(model)] == ["1"]


def test_gpt2_is_conv1d_with_positions_left_alone(tiny):
    layers = by_name(tiny("gpt2"))
    assert layers["transformer.h.1.mlp.c_fc"].kind is Kind.CONV1D
    assert layers["transformer.h.1.mlp.c_fc"].shape == (128, 32)
    assert layers["transformer.h.1.mlp.c_fc"].block == 1
    assert all(layer.fuse is None for layer in layers.values())
    assert "transformer.wpe" not in layers


@pytest.mark.parametrize(
    ("name", "experts", "shapes"),
    [
        ("mixtral", "model.layers.1.mlp.experts", [(3, 96, 32), (3, 32, 48)]),
        ("qwen-moe", "model.layers.1.mlp.experts", [(3, 48, 32), (3, 32, 24)]),
        ("gpt-oss", "model.layers.1.mlp.experts", [(3, 96, 32), (3, 32, 48)]),
        ("llama4", "model.layers.1.feed_forward.experts", [(3, 96, 32), (3, 32, 48)]),
    ],
)
def test_experts_are_layers_and_routers_are_not(tiny, name, experts, shapes):
    model = tiny(name)
    layers = [layer for layer in find_layers(model) if layer.name.startswith(f"{experts}.")]
    assert [layer.name for layer in layers] == [f"{experts}.gate_up_proj", f"{experts}.down_proj"]
    assert [layer.shape for layer in layers] == shapes
    assert {layer.kind for layer in layers} == {Kind.EXPERTS}
    assert {layer.block for layer in layers} == {1}
    assert {layer.fuse for layer in layers} == {experts}
    assert module_of(model, layers[0]) is model.get_submodule(experts)
    routers = {"gate", "router", "shared_expert_gate"}
    assert not routers & {layer.name.rpartition(".")[2] for layer in find_layers(model)}


def test_what_runtimes_fuse(tiny):
    llama = tiny("llama")
    assert fused(llama, "model.layers.1.self_attn.qkv") == ["q_proj", "k_proj", "v_proj"]
    assert fused(llama, "model.layers.1.mlp.gate_up") == ["gate_proj", "up_proj"]
    assert by_name(llama)["model.layers.1.self_attn.o_proj"].fuse is None
    bert = tiny("bert")
    assert fused(bert, "encoder.layer.0.attention.self.qkv") == ["query", "key", "value"]
    t5 = tiny("t5")
    assert fused(t5, "decoder.block.0.layer.0.SelfAttention.qkv") == ["q", "k", "v"]
    assert fused(t5, "decoder.block.0.layer.1.EncDecAttention.kv") == ["k", "v"]
    assert fused(t5, "encoder.block.0.layer.1.DenseReluDense.gate_up") == ["wi_0", "wi_1"]


def test_experts_as_a_list_of_modules_are_fused_by_block():
    block = nn.Module()
    block.gate = nn.Linear(8, 2)
    block.experts = nn.ModuleList(nn.ModuleDict({"w1": nn.Linear(8, 4)}) for _ in range(2))
    model = nn.Module()
    model.layers = nn.ModuleList([block])
    layers = find_layers(model)
    assert [layer.name for layer in layers] == [f"layers.0.experts.{i}.w1" for i in range(2)]
    assert {layer.fuse for layer in layers} == {"layers.0.experts"}


def test_a_lone_query_is_fused_with_nothing():
    model = nn.ModuleDict({"q_proj": nn.Linear(8, 8), "o_proj": nn.Linear(8, 8)})
    assert [layer.fuse for layer in find_layers(model)] == [None, None]


def test_weights_that_are_multiplied_without_a_call_are_left_alone(tiny):
    assert "backbone.layers.0.mixer.in_proj" in by_name(tiny("mamba"))
    assert "backbone.layers.0.mixer.dt_proj" not in by_name(tiny("mamba"))
    attention = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "out": nn.Linear(8, 8)})
    assert [layer.name for layer in find_layers(attention)] == ["out"]


def test_a_linear_with_a_forward_of_its_own_is_left_alone():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    assert [layer.name for layer in find_layers(nn.Sequential(Doubled(4, 4), nn.Linear(4, 4)))] == [
        "1"
    ]


def test_a_scaled_embedding_is_a_layer(tiny):
    layers = by_name(tiny("gemma"))
    assert layers["model.embed_tokens"].tied == ("lm_head",)


@pytest.mark.parametrize(
    "model", [nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.ReLU()), nn.Sequential()]
)
def test_a_model_without_layers_is_refused(model):
    with pytest.raises(ModelError, match="no layer that bitplan can quantize"):
        find_layers(model)


def test_weights_are_views_in_canonical_orientation(model):
    for layer in find_layers(model):
        weight = weight_of(model, layer)
        assert tuple(weight.shape) == layer.shape
        assert not weight.requires_grad
        holder = module_of(model, layer)
        name = layer.name.rpartition(".")[2] if layer.kind is Kind.EXPERTS else "weight"
        assert weight.data_ptr() == getattr(holder, name).data_ptr()


def test_two_dimensional_weights_multiply_as_their_modules_do(model):
    for layer in find_layers(model):
        if layer.kind not in (Kind.LINEAR, Kind.CONV1D):
            continue
        module, weight = module_of(model, layer), weight_of(model, layer)
        x = torch.randn(3, layer.shape[1])
        bias = 0 if module.bias is None else module.bias
        torch.testing.assert_close(module(x), x @ weight.T + bias)


@pytest.mark.parametrize("name", ["mixtral", "qwen-moe", "gpt-oss"])
def test_experts_multiply_as_their_module_does(tiny, name):
    model = tiny(name)
    model.set_experts_implementation("eager")
    gate_up, down = (layer for layer in find_layers(model)[:7] if layer.kind is Kind.EXPERTS)
    module = module_of(model, gate_up)
    x = torch.randn(6, 32)
    experts = torch.tensor([0, 1, 2, 2, 1, 0])
    output = module(x, experts[:, None], torch.ones(6, 1))
    hidden = torch.einsum("ti,toi->to", x, weight_of(model, gate_up)[experts])
    if name == "gpt-oss":
        hidden = hidden + module.gate_up_proj_bias[experts]
    expected = torch.einsum(
        "ti,toi->to", module._apply_gate(hidden), weight_of(model, down)[experts]
    )
    if name == "gpt-oss":
        expected = expected + module.down_proj_bias[experts]
    torch.testing.assert_close(output, expected)


def test_transposed_experts_that_do_not_say_so_are_told_by_their_shapes(tiny):
    model = tiny("llama4")
    gate_up, down = (layer for layer in find_layers(model)[:7] if layer.kind is Kind.EXPERTS)
    module = module_of(model, gate_up)
    assert not hasattr(module, "is_transposed")
    x = torch.randn(3, 5, 32)
    gate, up = (x @ weight_of(model, gate_up).mT).chunk(2, dim=-1)
    expected = (up * nn.functional.silu(gate)) @ weight_of(model, down).mT
    torch.testing.assert_close(module(x.view(15, 32)), expected.view(15, 32))


def test_writing_into_a_weight_changes_the_model(tiny):
    model = tiny("gpt2")
    layer = by_name(model)["transformer.h.0.attn.c_attn"]
    weight_of(model, layer)[5].zero_()
    assert model.transformer.h[0].attn.c_attn.weight[:, 5].abs().sum() == 0


def test_a_layer_of_another_model_is_refused(tiny):
    model = tiny("llama")
    absent = Layer(name="model.layers.9.mlp", kind=Kind.LINEAR, shape=(2, 2))
    with pytest.raises(ModelError, match=r"no module 'model.layers.9.mlp'"):
        weight_of(model, absent)
    weightless = Layer(name="model.layers.1.mlp", kind=Kind.LINEAR, shape=(2, 2))
    with pytest.raises(ModelError, match="holds no dense weight: it is a LlamaMLP"):
        weight_of(model, weightless)
    other_shape = Layer(name="lm_head", kind=Kind.LINEAR, shape=(2, 2))
    with pytest.raises(ModelError, match=r"shape \(64, 32\), but the layer has \(2, 2\)"):
        weight_of(model, other_shape)


def test_convolutions_are_matrices_of_their_windows():
    model = nn.Sequential(nn.Conv2d(3, 5, (3, 2)), nn.Conv1d(5, 4, 3), nn.Conv2d(4, 2, 1))
    found = [(layer.name, layer.kind, layer.shape) for layer in find_layers(model)]
    assert found == [
        ("0", Kind.CONV2D, (5, 18)),
        ("1", Kind.TIMECONV, (4, 15)),
        ("2", Kind.CONV2D, (2, 4)),
    ]
    weight = weight_of(model, find_layers(model)[0])
    weight[3].zero_()  # a view: it writes into the model
    assert model[0].weight[3].abs().sum() == 0 < model[0].weight[2].abs().sum()


class Standardized(nn.Conv2d):
    def forward(self, input):
        weight = self.weight - self.weight.mean()
        return self._conv_forward(input, weight, self.bias)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), Why.GROUPED),
        (nn.Conv1d(4, 4, 3, groups=4), Why.GROUPED),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), Why.CONVOLUTION),
        (nn.ConvTranspose2d(4, 4, 3), Why.CONVOLUTION),
        (nn.Conv3d(4, 4, 3), Why.CONVOLUTION),
        (Standardized(4, 4, 3), Why.CONVOLUTION),
        (nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last), Why.CONVOLUTION),
    ],
    ids=["grouped", "depthwise", "circular", "transposed", "3d", "own forward", "channels last"],
)
def test_other_convolutions_stay_and_it_is_said_why(module, why):
    model = nn.Sequential(module, nn.Linear(4, 4))
    assert [layer.name for layer in find_layers(model)] == ["1"]
    rest = {left.name: left.why for left in scan(model).rest}
    assert rest["0.weight"] is why

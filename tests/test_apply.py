import copy
import gc
import weakref

import pytest
import torch
import transformers
from torch import Tensor, nn

from bitplan.apply import check_plan, held_bytes, pack_layer, pack_layers
from bitplan.compress import render
from bitplan.errors import ModelError, PlanError
from bitplan.formats import Packed
from bitplan.models import find_layers, model_digest, weight_of
from bitplan.modules import PackedEmbedding, PackedLinear
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Kind, Layer, Plan, Scheme
from plans import plan_for

MODELS = ("llama", "llama-tied", "gpt2", "mixtral", "gpt-oss", "llama4", "gemma", "bert", "t5")
# Relative RMS difference of what dense and packed models say: rounding, in another order.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def wide(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model whose sides fit torch's packed matmuls."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)


def schemes_of(plan: Plan) -> dict[Layer, Scheme]:
    return {choice.layer: choice.scheme for choice in plan.choices}


def rendered(model: nn.Module, plan: Plan) -> dict[str, Packed]:
    return {
        layer.name: render(weight_of(model, layer), [scheme], quantizer="rtn")[scheme]
        for layer, scheme in schemes_of(plan).items()
    }


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    weights = rendered(model, plan)
    return pack_layers(model, schemes_of(plan), lambda layer, _: weights[layer.name])


@torch.no_grad()
def swapped(model: nn.Module, plan: Plan) -> nn.Module:
    """The dense model with the weights that the packed one decodes to."""
    twin = copy.deepcopy(model)
    weights = rendered(model, plan)
    for layer in schemes_of(plan):
        dense = weight_of(twin, layer)
        dense.copy_(weights[layer.name].decode(dense.dtype))
    if any(layer.kind is Kind.EXPERTS for layer in schemes_of(plan)):
        twin.set_experts_implementation("eager")
    return twin


@torch.no_grad()
def said(model: nn.Module) -> Tensor:
    tokens = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(1))
    arguments = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    output = model(input_ids=tokens, **arguments)
    found = output.logits if "logits" in output else output.last_hidden_state
    return found.double()


@DTYPES
@pytest.mark.parametrize("name", MODELS)
def test_a_model_holds_the_plans_bytes_and_says_what_the_weights_say(name, dtype, tiny_model):
    model = tiny_model(name, dtype)
    plan = plan_for(model)
    expected = said(swapped(model, plan))
    packed = apply(model, plan)
    assert packed is model
    assert held_bytes(model) == plan.bytes
    found = said(model)
    error = (found - expected).square().mean() / expected.square().mean()
    assert error.sqrt() < TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("scheme", ["int3g16", "int4g64", "int8s", "nf4g32"])
def test_packed_weights_are_multiplied_as_they_are(scheme, dtype):
    model = wide(dtype)
    plan = plan_for(model, (scheme,))
    expected = said(swapped(model, plan))
    apply(model, plan)
    used = {
        name: module.weight.implementation
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear | PackedEmbedding)
    }
    assert used.keys() >= {"model.embed_tokens", "model.layers.0.mlp.down_proj"}
    assert set(used.values()) <= {"cpu", "dot"}  # by what the processor has
    assert held_bytes(model) == plan.bytes
    error = (said(model) - expected).square().mean() / expected.square().mean()
    assert error.sqrt() < TOLERANCE[dtype]


def test_a_float32_model_can_keep_layers_in_bf16():
    model = wide()
    plan = plan_for(model, ("bf16",))
    weights = [weight_of(model, layer).bfloat16() for layer in schemes_of(plan)]
    apply(model, plan)
    assert held_bytes(model) == plan.bytes
    for layer, expected in zip(schemes_of(plan), weights, strict=True):
        module = model.get_submodule(layer.name)
        assert torch.equal(module.weight.packed().tensors["weight"], expected)
    assert said(model).isfinite().all()


@DTYPES
def test_layers_that_keep_their_dtype_are_left_alone(dtype):
    model = wide(dtype)
    plan = plan_for(model, ("bf16" if dtype == torch.bfloat16 else "fp32",))
    before, modules = said(model), dict(model.named_modules())
    pack_layers(model, schemes_of(plan), lambda *_: pytest.fail("nothing is to be packed"))
    assert dict(model.named_modules()) == modules
    assert torch.equal(said(model), before)
    assert held_bytes(model) == plan.bytes


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral", "gpt-oss", "llama4", "t5"])
def test_no_dense_weight_survives(name, tiny_model):
    model = tiny_model(name)
    plan = plan_for(model, ("int4g32", "int3", "int8s"))
    weights = rendered(model, plan)
    # Storage outlives tensors: watch what holds the memory.
    storages = [
        weakref.ref(weight_of(model, layer).untyped_storage()) for layer in schemes_of(plan)
    ]
    parameters = [weakref.ref(parameter) for parameter in model.parameters()]
    kept = len(parameters) - sum(1 for _ in schemes_of(plan))
    pack_layers(model, schemes_of(plan), lambda layer, _: weights[layer.name])
    gc.collect()
    assert not any(storage() for storage in storages)
    assert sum(parameter() is not None for parameter in parameters) == kept


def test_dense_weights_go_one_by_one():
    model = wide()
    plan = plan_for(model, ("int4g32", "int3"))
    weights, held = rendered(model, plan), []

    def packed_of(layer: Layer, scheme: Scheme) -> Packed:
        held.append(held_bytes(model))
        return weights[layer.name]

    pack_layers(model, schemes_of(plan), packed_of)
    assert held == sorted(held, reverse=True)
    assert held[-1] < held[0] / 2


def test_progress_is_told():
    model = wide()
    plan, told = plan_for(model), []
    weights = rendered(model, plan)
    pack_layers(
        model,
        schemes_of(plan),
        lambda layer, _: weights[layer.name],
        progress=lambda *step: told.append(step),
    )
    total = len(plan.choices)
    assert told == [("apply", done, total) for done in range(total + 1)]


@DTYPES
def test_tied_weights_are_packed_once(dtype, tiny_model):
    model = tiny_model("llama-tied", dtype)
    apply(model, plan_for(model, ("int4", "int3")))
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(table, PackedEmbedding)
    assert isinstance(head, PackedLinear)
    assert table.weight is head.weight


def test_tied_weights_that_are_kept_stay_tied(tiny_model):
    model = tiny_model("llama-tied")
    plan = plan_for(model, ("fp32",))
    apply(model, plan)
    assert held_bytes(model) == plan.bytes
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_conv1d_is_packed_as_its_matrix_product_reads_it(tiny_model):
    model = tiny_model("gpt2")
    layer = next(layer for layer in find_layers(model) if layer.kind is Kind.CONV1D)
    conv = model.get_submodule(layer.name)
    dense, bias = conv.weight.detach().clone(), conv.bias
    scheme = Scheme.parse("fp32")
    pack_layer(model, layer, render(weight_of(model, layer), [scheme])[scheme])
    linear = model.get_submodule(layer.name)
    assert isinstance(linear, PackedLinear)
    assert linear.bias is bias
    inputs = torch.randn(2, 3, dense.shape[0])
    torch.testing.assert_close(linear(inputs), conv(inputs))


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss", "llama4"])
def test_experts_stay_the_way_round_that_the_model_reads_them(name, tiny_model):
    model = tiny_model(name, torch.bfloat16)
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.EXPERTS]
    dense = {layer.name: model.get_parameter(layer.name).detach().clone() for layer in layers}
    scheme = Scheme.parse("bf16")
    for layer in layers:
        pack_layer(model, layer, render(weight_of(model, layer), [scheme])[scheme])
        experts = model.get_submodule(layer.name)
        assert isinstance(experts, PackedWeight)
        for expert in range(layer.shape[0]):
            assert torch.equal(experts[expert], dense[layer.name][expert])


def test_a_packed_model_generates(tiny_model):
    for name in ("llama-tied", "gpt2", "mixtral"):
        model = tiny_model(name)
        plan = plan_for(model, ("int8s", "int8g32"))
        dense = swapped(model, plan)
        apply(model, plan)
        tokens = torch.tensor([[5, 6, 7]])
        both = [m.generate(tokens, max_new_tokens=6, do_sample=False) for m in (model, dense)]
        assert both[0].shape == (1, 9) or both[0][0, -1] == model.config.eos_token_id
        assert torch.equal(*both)


def test_a_packed_model_is_not_packed_again():
    model = wide()
    plan = plan_for(model, ("int3",))
    apply(model, plan)
    with pytest.raises(ModelError, match=r"holds no dense weight: it is a Packed.*before it was"):
        apply(model, plan)


def test_held_bytes_counts_shared_storage_once_and_buffers_too():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 3)
            self.two = nn.Linear(4, 3, bias=False)
            self.two.weight = self.one.weight
            self.register_buffer("seen", torch.zeros(5, dtype=torch.int64))
            self.register_buffer("cache", torch.zeros(2), persistent=False)
            self.register_buffer("again", self.seen)

    assert held_bytes(Model()) == (12 + 3) * 4 + 5 * 8 + 2 * 4
    assert held_bytes(nn.Module()) == 0
    assert held_bytes(nn.Linear(4, 3, device="meta")) == 15 * 4


class TestCheckPlan:
    def check(self, plan: Plan, model: nn.Module) -> None:
        layers = find_layers(model)
        check_plan(plan, layers, model_digest(model, layers))

    def test_the_model_it_was_made_for(self):
        self.check(plan_for(wide()), wide())
        self.check(plan_for(wide()), wide(torch.bfloat16))  # the digest is over bfloat16

    def test_missing_layers(self):
        plan = plan_for(wide())
        short = plan.model_copy(update={"choices": plan.choices[5:]})
        with pytest.raises(PlanError) as error:
            self.check(short, wide())
        message = str(error.value)
        assert "lacks layers of the model: model.embed_tokens, " in message
        assert "and 2 more" in message
        assert "make a plan for this one" in message

    def test_layers_that_the_model_lacks(self, tiny_model):
        with pytest.raises(PlanError, match=r"made for tiny, has layers that the model lacks: "):
            self.check(plan_for(tiny_model("llama")), wide())

    def test_other_shapes(self, tiny_model):
        theirs = plan_for(wide())
        grown = theirs.choices[0].layer.model_copy(update={"shape": (97, 64)})
        choices = (theirs.choices[0].model_copy(update={"layer": grown}), *theirs.choices[1:])
        with pytest.raises(PlanError, match=r"embed_tokens \[97, 64\] for \[96, 64\]\. Give"):
            self.check(theirs.model_copy(update={"choices": choices}), wide())

    def test_other_weights(self):
        other = wide()
        with torch.no_grad():
            other.lm_head.weight[0, 0] += 1
        with pytest.raises(PlanError, match=r"other weights of this architecture.*digest"):
            self.check(plan_for(wide()), other)
        check_plan(plan_for(wide()), find_layers(other), None)  # weights are not looked at

"""Operators: what a compiler sees of a packed weight is what runs without one."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from bitplan.apply import pack_layers
from bitplan.compress import render
from bitplan.kernels import operators
from bitplan.models import find_layers, weight_of
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Scheme

KERNELS = [("int3g16", "cpu"), ("int3g16", "reference"), ("int4g32", "torch"), ("nf4g64", "cpu")]


def weight_in(name: str, kernel: str, *, rows: int = 32, columns: int = 64) -> PackedWeight:
    scheme, generator = Scheme.parse(name), torch.Generator().manual_seed(0)
    dense = torch.randn(rows, columns, generator=generator)
    packed = render(dense, [scheme], quantizer="rtn")[scheme]
    weight = PackedWeight(packed, compute_dtype=torch.float32)
    weight.lay_out(kernel)
    return weight


def held_by(weight: PackedWeight) -> dict[str, torch.Tensor]:
    return {**dict(weight.named_parameters()), **dict(weight.named_buffers())}


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_torch_finds_nothing_wrong_with_the_operators(name, kernel):
    weight = weight_in(name, kernel)
    held = held_by(weight)
    names, tensors = ",".join(held), list(held.values())
    inputs = torch.randn(2, 3, 64, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    of_linear = (inputs, tensors, names, name, kernel, 32)
    torch.library.opcheck(torch.ops.bitplan.linear.default, of_linear, test_utils=checks)
    if kernel != "torch":
        of_lookup = (torch.tensor([[3, 31]]), tensors, names, name, kernel, 64, torch.bfloat16)
        torch.library.opcheck(torch.ops.bitplan.lookup.default, of_lookup, test_utils=checks)


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_the_way_back_is_that_of_the_dense_weight(name, kernel):
    weight = weight_in(name, kernel)
    inputs, slope = torch.randn(2, 3, 64, requires_grad=True), torch.randn(2, 3, 32)
    held = held_by(weight)
    operators.linear(inputs, held, name, kernel, 32).backward(slope)
    dense = weight.packed().decode()
    torch.testing.assert_close(inputs.grad, slope @ dense, rtol=1e-4, atol=1e-4)


def packed_llama(kernel: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).eval()
    names = ["int3g64", "int4g64", "nf4g32", "ternary2", "binary2g32", "int4g64+2:4"]
    names += ["int3g32+5%int8+r4"]
    layers = find_layers(model)
    schemes = {layer: Scheme.parse(names[at % len(names)]) for at, layer in enumerate(layers)}

    def rendered(layer, scheme):
        return render(weight_of(model, layer), [scheme], quantizer="rtn")[scheme]

    pack_layers(model, schemes, rendered)
    return model


def test_a_model_compiles_into_one_graph_and_says_the_same():
    model, tokens = packed_llama(), torch.randint(0, 97, (2, 9))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens).logits, model(tokens).logits)


def test_a_compiled_model_learns_at_its_inputs_as_the_plain_one_does():
    model = packed_llama()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs = torch.randn(2, 5, 64)
    gradients = []
    for each in (model, compiled):
        leaf = inputs.clone().requires_grad_()
        each(inputs_embeds=leaf).logits.square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_model_is_exported_with_its_packed_weights_and_read_again(tmp_path):
    model, tokens = packed_llama(), torch.randint(0, 97, (2, 9))
    with torch.no_grad():
        exported = torch.export.export(model, (tokens,), strict=False)
        torch.export.save(exported, tmp_path / "model.pt2")
        again = torch.export.load(tmp_path / "model.pt2").module()
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits)
    held = [*model.parameters(), *model.buffers()]
    kept = {tensor.data_ptr(): tensor.nbytes for tensor in exported.state_dict.values()}
    assert sum(kept.values()) <= sum(tensor.nbytes for tensor in held)

"""Products with experts by Triton's interpreter, and models that have them: for `interpret`."""

import copy

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bitplan.apply import pack_layers
from bitplan.compress import render
from bitplan.kernels import arranged_for, reference_of
from bitplan.kernels.gpu import launch_experts
from bitplan.kernels.gpu.shapes import Device
from bitplan.models import find_layers
from bitplan.models import weight_of as weight_of_layer
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Kind, Scheme
from interpreted import case, error, weight_of

MIXTURE = "experts of "
"""What a name of a kind of model follows."""


def experts_case(
    name: str,
    rows: int,
    columns: int,
    counts: list[int],
    dtype: str = "bfloat16",
    view: str = "whole",
    cuda: bool = True,
) -> dict:
    """What `grouped` is asked for; `counts` are each expert's tokens."""
    asked = case(name, rows, columns, [], dtype, view, cuda)
    del asked["tokens"]
    return asked | {"counts": counts}


def experts_of(name: str, rows: int, columns: int, count: int) -> tuple[list, dict]:
    """Weights that differ, and the stack of what they are laid out as."""
    weights = [weight_of(name, rows, columns, seed) for seed in range(count)]
    triton = arranged_for(weights[0].scheme, "triton")
    laid_out = [triton.arrange(one.tensors, one.scheme, columns) for one in weights]
    return weights, {key: torch.stack([one[key] for one in laid_out]) for key in laid_out[0]}


def grouped(
    name: str, rows: int, columns: int, counts: list[int], dtype: str, view: str, cuda: bool
) -> dict:
    """Errors of the kernel and of the reference, expert by expert, and whether a rest is as it was.

    After the experts' tokens come two of none.
    """
    weights, arranged = experts_of(name, rows, columns, len(counts))
    launch_experts.device_of = lambda device: Device(multiprocessors=2, cuda=cuda)
    scheme, kind, total = weights[0].scheme, getattr(torch, dtype), sum(counts) + 2
    generator = torch.Generator().manual_seed(1)
    if view == "transposed":
        inputs = torch.randn(columns, total, generator=generator).to(kind).t()
    else:
        inputs = torch.randn(total, columns + 8, generator=generator).to(kind)[:, 8:]
    ends = torch.tensor(counts, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    # What is allocated and not yet written is NaN.
    torch.use_deterministic_algorithms(True)
    output = arranged_for(scheme, "triton").grouped(inputs, ends, arranged, scheme)
    torch.use_deterministic_algorithms(False)
    assert output.dtype == kind
    assert output.shape == (total, rows)
    found = {"error": 0.0, "reference": 0.0, "same": bool(output[-2:].isnan().all())}
    parts = zip(weights, inputs[:-2].split(counts), output[:-2].split(counts), strict=True)
    for weight, of_expert, product in parts:
        if len(of_expert):
            expected = reference_of(scheme).linear(of_expert, weight.tensors, scheme)
            for key, made in (("error", product), ("reference", expected)):
                wrong = error(made, of_expert, weight)
                found[key] = found[key] if wrong <= found[key] else wrong  # NaN is kept
    return found


def mixture(name: str) -> dict:
    """How far a model whose experts are packed is from their decoded weights, and its launches.

    Its experts run all at once, and then one by one.
    """
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    chosen = {"num_local_experts": 3, "num_experts_per_tok": 1 if "llama" in name else 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **sizes, **heads, **chosen, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.15)
    twin, weights, scheme = copy.deepcopy(model), {}, Scheme.parse("int4g32")
    for layer in find_layers(model):
        if layer.kind is Kind.EXPERTS:
            dense = weight_of_layer(model, layer)
            weights[layer] = render(dense, [scheme], quantizer="rtn")[scheme]
            weight_of_layer(twin, layer).copy_(weights[layer].decode())
    twin.set_experts_implementation("eager")
    pack_layers(model, dict.fromkeys(weights, scheme), lambda layer, _: weights[layer])
    for module in model.modules():
        if isinstance(module, PackedWeight):
            module.lay_out("triton")
    launch, launches = launch_experts._launch, []
    launch_experts._launch = lambda *args: launches.append(launch(*args))
    tokens = torch.tensor([[5, 9, 40, 7]])
    found, expected = model(tokens).logits, twin(tokens).logits
    count = len(launches)  # before experts run one by one
    model.set_experts_implementation("eager")
    errors = [(logits - expected).norm() / expected.norm() for logits in (found, model(tokens)[0])]
    return {"error": torch.stack(errors).max().item(), "launches": count}

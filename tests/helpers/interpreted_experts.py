"""Products with experts by Triton's interpreter, and models that have them: for `interpret`."""

import copy

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from bitplan.apply import pack_layers
from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels import arranged_for, grouped_of_several, reference_of
from bitplan.kernels.gpu import launch_experts
from bitplan.kernels.gpu.operator import beside_of_all
from bitplan.kernels.gpu.shapes import Device
from bitplan.models import find_layers
from bitplan.models import weight_of as weight_of_layer
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Kind, Scheme
from interpreted import case, error, weight_of

MIXTURE = "experts of "
"""What a name of a kind of model follows."""

STACKS = "stacks of "
"""What names of schemes follow, one of each expert, where the operator is asked for."""


def experts_case(
    name: str,
    rows: int,
    columns: int,
    counts: list[int],
    dtype: str = "bfloat16",
    view: str = "whole",
    cuda: bool = True,
) -> dict:
    """What `grouped` is asked for; `counts` are each expert's tokens.

    The name is that of all experts' scheme, or names of each one's own have spaces between them.
    """
    asked = case(name, rows, columns, [], dtype, view, cuda)
    del asked["tokens"]
    return asked | {"counts": counts}


def experts_of(name: str, rows: int, columns: int, count: int) -> tuple[list[Packed], dict]:
    """Weights that differ, and the stack of what they are laid out as."""
    weights = [weight_of(name, rows, columns, seed) for seed in range(count)]
    return weights, stack_of(weights)


def stack_of(weights: list[Packed]) -> dict[str, Tensor]:
    """What weights of one scheme are laid out as, one after another."""
    triton = arranged_for(weights[0].scheme, "triton")
    laid_out = [triton.arrange(one.tensors, one.scheme, one.shape[1]) for one in weights]
    return {key: torch.stack([one[key] for one in laid_out]) for key in laid_out[0]}


def stacks_of(
    names: str, rows: int, columns: int
) -> tuple[list[Packed], tuple[list[Tensor], list[dict[str, Tensor]], list[Scheme]]]:
    """Weights that differ, each of the scheme of its name, and what `grouped_of_several` takes."""
    weights = [weight_of(name, rows, columns, seed) for seed, name in enumerate(names.split())]
    schemes = list(dict.fromkeys(one.scheme for one in weights))
    numbers = [[n for n, one in enumerate(weights) if one.scheme == scheme] for scheme in schemes]
    kinds = [torch.int64, torch.int32]
    members = [torch.tensor(own, dtype=kinds[n % 2]) for n, own in enumerate(numbers)]
    arranged = [stack_of([weights[n] for n in own]) for own in numbers]
    return weights, (members, arranged, schemes)


def grouped(
    name: str, rows: int, columns: int, counts: list[int], dtype: str, view: str, cuda: bool
) -> dict:
    """Errors of the kernel and of the reference, expert by expert, and whether a rest is as it was.

    After the experts' tokens come two of none.
    """
    launch_experts.device_of = lambda device: Device(multiprocessors=2, cuda=cuda)
    kind, total = getattr(torch, dtype), sum(counts) + 2
    generator = torch.Generator().manual_seed(1)
    if view == "transposed":
        inputs = torch.randn(columns, total, generator=generator).to(kind).t()
    else:
        inputs = torch.randn(total, columns + 8, generator=generator).to(kind)[:, 8:]
    ends = torch.tensor(counts, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    # What is allocated and not yet written is NaN.
    torch.use_deterministic_algorithms(True)
    if " " in name:
        weights, stacks = stacks_of(name, rows, columns)
        output = grouped_of_several(inputs, ends, *stacks)
    else:
        weights, arranged = experts_of(name, rows, columns, len(counts))
        scheme = weights[0].scheme
        output = arranged_for(scheme, "triton").grouped(inputs, ends, arranged, scheme)
    torch.use_deterministic_algorithms(False)
    assert output.dtype == kind
    assert output.shape == (total, rows)
    found = {"error": 0.0, "reference": 0.0, "same": bool(output[-2:].isnan().all())}
    parts = zip(weights, inputs[:-2].split(counts), output[:-2].split(counts), strict=True)
    for weight, of_expert, product in parts:
        if len(of_expert):
            reference = reference_of(weight.scheme)
            expected = reference.linear(of_expert, weight.tensors, weight.scheme)
            for key, made in (("error", product), ("reference", expected)):
                wrong = error(made, of_expert, weight)
                found[key] = found[key] if wrong <= found[key] else wrong  # NaN is kept
    return found


def operator_of_stacks(names: str) -> dict:
    """What torch says of the operator, and whether a compiled function has it in one graph."""
    _, (members, arranged, schemes) = stacks_of(names, 40, 96)
    count = sum(map(len, members))
    ends = torch.arange(1, count + 1, dtype=torch.int32)
    inputs = torch.randn(count, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    codes, grids = ([held[key] for held in arranged] for key in ("codes", "grid"))
    beside, listed = beside_of_all(arranged, schemes), ",".join(map(str, schemes))
    arguments = (inputs, ends, members, codes, grids, beside, listed)
    checked = torch.library.opcheck(torch.ops.bitplan.packed_experts.default, arguments)

    def layer(x: Tensor) -> Tensor:
        return grouped_of_several(x * 2, ends, members, arranged, schemes) + 1

    torch.compiler.reset()  # or what differs from the schemes before would be a variable
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(inputs)
        same = torch.equal(compiled, layer(inputs))
    return {"checked": [*checked.values()], "same": same}


def mixture(name: str) -> dict:
    """How far a model whose experts are packed is from their decoded weights, and its launches.

    Its experts run all at once, and then one by one. `each` in the name: in two schemes, in turn.
    """
    name, _, is_each = name.partition(" ")
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    chosen = {"num_local_experts": 3, "num_experts_per_tok": 1 if "llama" in name else 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **sizes, **heads, **chosen, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.15)
    twin, weights = copy.deepcopy(model), {}
    for layer in find_layers(model, experts="each" if is_each else "together"):
        if layer.kind is Kind.EXPERTS:
            dense = weight_of_layer(model, layer)
            scheme = Scheme.parse("int8s" if layer.expert and layer.expert % 2 else "int4g32")
            weights[layer] = render(dense, [scheme], quantizer="rtn")[scheme]
            weight_of_layer(twin, layer).copy_(weights[layer].decode())
    twin.set_experts_implementation("eager")
    schemes = {layer: weight.scheme for layer, weight in weights.items()}
    pack_layers(model, schemes, lambda layer, _: weights[layer])
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

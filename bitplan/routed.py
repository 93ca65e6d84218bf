"""How transformers runs experts that are packed: told to it by `registered`.

Where a kernel takes all experts at once, tokens are sorted by expert, and each product is one
launch. Nothing waits for the device: how many tokens an expert has, only the device knows.
Elsewhere experts run one after another, as the model's own `forward` asks for them.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.weight import AbstractWeight


def run(module: Any, *args: Any, **keywords: Any) -> Tensor:
    """The experts' outputs, each weighted and summed for every token.

    `module` is of a class that transformers decorated: it has `gate_up_proj` or `up_proj`,
    `down_proj`, their biases, and what stands between them.
    """
    weights = (getattr(module, name) for name in _names(module))
    if all(isinstance(weight, AbstractWeight) and weight.is_grouped for weight in weights):
        return _run_sorted(module, *args, **keywords)
    return type(module).forward.__wrapped__(module, *args, **keywords)


def _run_sorted(
    module: Any,
    hidden_states: Float[Tensor, "tokens hidden"],
    top_k_index: Int[Tensor, "tokens chosen"],
    top_k_weights: Float[Tensor, "tokens chosen"],
) -> Float[Tensor, "tokens hidden"]:
    up, down = _names(module)
    count = getattr(module, down).shape[0]
    experts, order = top_k_index.flatten().sort()
    bounds = torch.arange(count, device=experts.device)
    ends = torch.searchsorted(experts, bounds, right=True, out_int32=True)
    rows = hidden_states[order // top_k_index.shape[1]]
    rows = _product(module, up, rows, experts, ends)
    rows = module._apply_gate(rows) if _has_gate(module) else module.act_fn(rows)
    rows = _product(module, down, rows, experts, ends)
    if getattr(module, "has_post_expert_norm", False):
        rows = module.post_expert_norm(rows)
    rows = rows * top_k_weights.flatten()[order, None]
    # Each token's in a row again: a sum of them is the same every time, as adding by index is not.
    of_tokens = torch.empty_like(rows).index_copy_(0, order, rows)
    summed = of_tokens.unflatten(0, top_k_index.shape).sum(1)
    return summed.to(hidden_states.dtype)


def _product(module: nn.Module, name: str, rows: Tensor, experts: Tensor, ends: Tensor) -> Tensor:
    products = getattr(module, name).multiply_sorted(rows, ends)
    bias = getattr(module, f"{name}_bias", None)
    return products if bias is None else products + bias[experts].to(products.dtype)


def _names(module: Any) -> tuple[str, str]:
    return "gate_up_proj" if _has_gate(module) else "up_proj", "down_proj"


def _has_gate(module: Any) -> bool:
    return getattr(module, "has_gate", True)

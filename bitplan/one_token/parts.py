"""What a block of transformers is made of, and its programs."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from bitplan.kernels.decoder.block import (
    DOWN,
    GATE,
    KEY,
    OUTPUT,
    QUERY,
    UP,
    VALUE,
    Block,
    Given,
    Memory,
    Shape,
)
from bitplan.kernels.native.dense import dense
from bitplan.modules import PackedLinear

LINEARS = {
    QUERY: "self_attn.q_proj",
    KEY: "self_attn.k_proj",
    VALUE: "self_attn.v_proj",
    OUTPUT: "self_attn.o_proj",
    GATE: "mlp.gate_proj",
    UP: "mlp.up_proj",
    DOWN: "mlp.down_proj",
}
NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
"""The last two are Qwen3's."""

OTHERS = ("self_attn", "mlp", "mlp.act_fn")


class Parts:
    """The modules of a block as they were found in it, and its programs.

    Args:
        block: of transformers.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        places = {path: _place(block, path) for path in (*LINEARS.values(), *NORMS, *OTHERS)}
        found: dict[str, Any] = {
            path: modules.get(name) for path, (modules, name) in places.items()
        }
        self._found = [(*places[path], module) for path, module in found.items()]
        self._linears = {name: found[path] for name, path in LINEARS.items()}
        self._norms = [found[path] for path in NORMS]
        self._attention: Any = found["self_attn"]
        self._activation = found["mlp.act_fn"]
        modules = [module for module in found.values() if module is not None]
        self._attributes = [module.__dict__ for module in modules]
        self._hooks = [
            hooks
            for module in modules
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]
        holders = [module._modules for module in modules if "weight" in module._modules]
        self._found += [(holder, "weight", holder["weight"]) for holder in holders]
        weights = [part for holder in holders for part in holder["weight"].modules()]
        self._layouts = [(one.__dict__, one.__dict__.get("layout")) for one in weights]
        self._tensors = [
            (held, name, _address_of(tensor))
            for one in (*modules, *weights)
            for held in (one._parameters, one._buffers)
            for name, tensor in held.items()
        ]
        self._given = Given(
            [_address_of(_parameter(norm, "weight")) for norm in self._norms],
            {name: _address_of(_parameter(one, "bias")) for name, one in self._linears.items()},
        )
        self._made: dict[tuple[int, torch.dtype], Block | None] = {}

    def are_in_place(self) -> bool:
        """Whether they are still what the block is made of, and laid out as they were."""
        for modules, name, module in self._found:
            if modules.get(name) is not module:
                return False
        for weight, layout in self._layouts:
            if weight.get("layout") is not layout:
                return False
        return all(_address_of(held.get(name)) == at for held, name, at in self._tensors)

    def are_alone(self) -> bool:
        """Whether nobody listens to them, changes or trains them, or wants other attention."""
        return (
            not any(self._hooks)
            and not any("forward" in attributes for attributes in self._attributes)
            and not self._block.training
            and self._attention.config._attn_implementation == "sdpa"
        )

    def programs(self, hidden: Tensor, memory: Memory) -> Block | None:
        """Those for so many sequences of the dtype, or None where there are none."""
        key = len(hidden), hidden.dtype
        if key not in self._made:
            self._made[key] = self._make(*key, memory)
        return self._made[key]

    def _make(self, count: int, dtype: torch.dtype, memory: Memory) -> Block | None:
        products = {}
        for name, linear in self._linears.items():
            if type(linear) is PackedLinear:
                terms = linear.weight.few(count, dtype)
            else:
                terms = dense(linear.weight, count) if type(linear) is nn.Linear else None
            if terms is None or not _is_of(linear.bias, dtype):
                return None
            products[name] = terms
        norms = [norm for norm in self._norms if norm is not None]
        own = type(self._block).__module__
        of_transformers = (self._attention, self._block.mlp, *norms)
        if (
            any(type(module).__module__ != own for module in of_transformers)
            or not isinstance(self._activation, nn.SiLU | SiLUActivation)
            or not all(_is_of(norm.weight, dtype) for norm in norms)
        ):
            return None
        attention = self._attention
        eps = [norm.variance_epsilon for norm in norms]
        width = attention.head_dim
        shape = Shape(
            heads=self._linears[QUERY].out_features // width,
            key_heads=self._linears[KEY].out_features // width,
            width=width,
            scale=attention.scaling,
            eps=(eps[0], eps[1], eps[-1]),
        )
        return Block(shape, products, count, dtype, memory)

    def run(
        self,
        made: Block,
        hidden: Tensor,
        mask: Tensor | None,
        cache: Any,
        positions: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The block's output; its keys and values go to the cache, if there is one."""
        keys, values = made.before(hidden, *positions, self._given)
        if cache is not None:
            keys, values = cache.update(keys, values, self._attention.layer_idx)
            keys, values = _readable(keys, hidden.dtype), _readable(values, hidden.dtype)
        return made.after(hidden, keys, values, mask, self._given)


def _place(block: nn.Module, path: str) -> tuple[dict[str, nn.Module | None], str]:
    """Where a block has a module, and the name of it there."""
    holder, _, name = path.rpartition(".")
    return (block.get_submodule(holder) if holder else block)._modules, name


def _parameter(module: nn.Module | None, name: str) -> Tensor | None:
    return None if module is None else module._parameters.get(name)


def _address_of(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _is_of(numbers: Tensor | None, dtype: torch.dtype) -> bool:
    """Whether they are of a dtype, one after another on the CPU, if there are any."""
    return numbers is None or (
        numbers.dtype == dtype and numbers.is_cpu and numbers.is_contiguous()
    )


def _readable(cached: Tensor, dtype: torch.dtype) -> Tensor:
    """What a cache gives, in the dtype, each head's numbers one after another."""
    found = cached if cached.dtype == dtype else cached.to(dtype)
    return found if found.stride(-1) == 1 else found.contiguous()

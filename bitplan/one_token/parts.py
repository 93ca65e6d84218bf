"""What a block of transformers is made of, and its programs."""

from collections.abc import Iterable
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every
from transformers.activations import GELUTanh, SiLUActivation

from bitplan.formats import MATRIX_SCALE
from bitplan.kernels.decoder.block import Block, Given, Memory
from bitplan.kernels.decoder.jobs import Shape
from bitplan.kernels.decoder.roles import (
    AFTER_ATTENTION,
    AFTER_FEED_FORWARD,
    BEFORE_ATTENTION,
    BEFORE_FEED_FORWARD,
    DOWN,
    GATE,
    GELU_TANH,
    KEY,
    OF_KEYS,
    OF_QUERIES,
    OUTPUT,
    QUERY,
    SIDE_BY_SIDE,
    SILU,
    UP,
    VALUE,
)
from bitplan.kernels.native.dense import dense
from bitplan.modules import PackedLinear
from bitplan.one_token.entries import Entries, Tensors
from bitplan.one_token.families import FAMILIES, Family

ROLES = (QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN)
NORMS = (
    BEFORE_ATTENTION,
    AFTER_ATTENTION,
    BEFORE_FEED_FORWARD,
    AFTER_FEED_FORWARD,
    OF_QUERIES,
    OF_KEYS,
)
SETTINGS = ("head_dim", "num_key_value_groups", "scaling", "variance_epsilon", "eps")
"""Attributes that say what is computed, in every family."""

GATES = {nn.SiLU: SILU, SiLUActivation: SILU, GELUTanh: GELU_TANH}


class Parts:
    """The modules of a block as they were found in it, and its programs.

    Args:
        block: of transformers.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block, family = block, FAMILIES[type(block).__name__]
        self._family = family
        others = ("self_attn", "mlp", family.activation, *family.others)
        paths = (*family.linears.values(), *family.norms.values(), *others)
        places = {path: _place(block, path) for path in paths}
        found: dict[str, Any] = {
            path: modules.get(name) for path, (modules, name) in places.items()
        }
        placed = [(*places[path], module) for path, module in found.items()]
        self._linears = {role: found[path] for role, path in family.linears.items()}
        self._norms = {role: found[path] for role, path in family.norms.items()}
        self._attention: Any = found["self_attn"]
        self._activation = found[family.activation]
        modules = [module for module in found.values() if module is not None]
        self._attributes = [module.__dict__ for module in modules]
        self._hooks = [
            hooks
            for module in modules
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]
        self._hooks += [every._global_forward_hooks, every._global_forward_pre_hooks]
        holders = [module for module in modules if "weight" in module._modules]
        placed += [(module._modules, "weight", module._modules["weight"]) for module in holders]
        weights: list[Any] = [
            part for module in holders for part in module._modules["weight"].modules()
        ]
        self._placed = Entries(placed)
        self._kinds = list(map(type, self._placed.values))
        self._settings = Entries(_settings_of((block, *modules), family))
        self._layouts = Entries([(one.__dict__, "layout", one.layout) for one in weights])
        self._tensors, self._packed = Tensors(modules), Tensors(weights)
        self._scales = _scales_of(weights)
        self._given = Given(
            {role: _address_of(_parameter(self._norms.get(role), "weight")) for role in NORMS},
            {role: _address_of(_parameter(self._linears.get(role), "bias")) for role in ROLES},
        )
        self._made: dict[tuple[int, torch.dtype], Block | None] = {}

    def are_in_place(self, *, thorough: bool = True) -> bool:
        """Whether they are still what the block is made of, set and laid out as they were.

        Unless it is `thorough`, of packed weights it is their layouts that are looked at: another
        object whenever they hold other tensors, but not where one has a tensor's `data` replaced.
        """
        found = self._placed.now()
        return (
            all(map(is_, found, self._placed.values))
            and all(map(is_, map(type, found), self._kinds))
            and self._settings.now() == self._settings.values
            and all(map(is_, self._layouts.now(), self._layouts.values))
            and self._tensors.are_in_place()
            and (not thorough or self._packed.are_in_place())
            and all(float(held[MATRIX_SCALE]) == scale for held, scale in self._scales)
        )

    def are_alone(self) -> bool:
        """Whether nobody listens to them, changes or trains them, or wants other attention."""
        return (
            not any(self._hooks)
            and not any("forward" in attributes for attributes in self._attributes)
            and not self._block.training
            and self._attention.config._attn_implementation == self._family.attention
        )

    def programs(self, hidden: Tensor, memory: Memory) -> Block | None:
        """Those for so many sequences of the dtype, or None where there are none."""
        key = len(hidden), hidden.dtype
        if key not in self._made:
            self._made[key] = self._make(*key, memory)
        return self._made[key]

    def _make(self, count: int, dtype: torch.dtype, memory: Memory) -> Block | None:
        products = {}
        for role, linear in self._linears.items():
            if type(linear) is PackedLinear:
                terms = linear.weight.few(count, dtype)
            else:
                terms = dense(linear.weight, count) if type(linear) is nn.Linear else None
            if terms is None or not _is_of(linear.bias, dtype):
                return None
            if role in SIDE_BY_SIDE and linear.bias is not None:
                return None
            products[role] = terms
        own, norms = type(self._block).__module__, self._norms.values()
        if (
            any(
                type(module).__module__ != own
                for module in (self._attention, self._block.mlp, *norms)
            )
            or type(self._activation) not in GATES
            or not all(_is_of(norm.weight, dtype) for norm in norms)
        ):
            return None
        return Block(self._shape(), products, count, dtype, memory, self._given)

    def _shape(self) -> Shape:
        """What the block's modules say of what is between its linears."""
        family, attention, width = self._family, self._attention, self._attention.head_dim
        heads = self._linears[OUTPUT].in_features // width
        of_queries = self._norms.get(OF_QUERIES)
        return Shape(
            heads=heads,
            key_heads=heads // attention.num_key_value_groups,
            width=width,
            scale=attention.scaling,
            eps=tuple((role, _eps_of(norm)) for role, norm in self._norms.items()),
            cap=(family.cap and getattr(attention, family.cap)) or 0.0,
            is_rotated=not family.is_rotated or bool(getattr(attention, family.is_rotated)),
            norm_is_whole=of_queries is not None and len(of_queries.weight) == heads * width,
            adds_one=family.adds_one,
            factor=getattr(self._block, family.factor) if family.factor else 1.0,
            gate=GATES[type(self._activation)],
        )

    def run(
        self,
        made: Block,
        hidden: Tensor,
        mask: Tensor | None,
        cache: Any,
        positions: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The block's output; its keys and values go to the cache, if there is one."""
        keys, values = made.before(hidden, *positions)
        if cache is not None:
            index = self._attention.layer_idx
            # A packed cache's own: what it stores is attended to without being decoded before.
            store = getattr(cache, "store_packed", None)
            stored = store(keys, values, index) if store else None
            if stored is not None:
                of_keys, of_values = stored
                output = made.after_packed(hidden, of_keys, of_values, mask)
                cache.forget(index)
                return output
            keys, values = cache.update(keys, values, index)
            keys, values = _readable(keys, hidden.dtype), _readable(values, hidden.dtype)
        return made.after(hidden, keys, values, mask)


def _place(block: nn.Module, path: str) -> tuple[dict[str, nn.Module | None], str]:
    """Where a block has a module, and the name of it there."""
    holder, _, name = path.rpartition(".")
    return (block.get_submodule(holder) if holder else block)._modules, name


def _settings_of(
    modules: Iterable[nn.Module], family: Family
) -> list[tuple[dict[str, Any], str, Any]]:
    """What `Shape` is read from: where it is, by what name, and what it is."""
    named = [name for name in (family.factor, family.cap, family.is_rotated) if name]
    return [
        (module.__dict__, name, module.__dict__[name])
        for module in modules
        for name in (*SETTINGS, *named)
        if name in module.__dict__
    ]


def _scales_of(weights: Iterable[nn.Module]) -> list[tuple[dict[str, Any], float]]:
    """The numbers that tables of scales are made with: they may change in their places."""
    found = [(one._parameters, one._parameters.get(MATRIX_SCALE)) for one in weights]
    return [(held, float(scale)) for held, scale in found if scale is not None]


def _eps_of(norm: Any) -> float:
    """What keeps a norm from dividing by nothing, by either of its names."""
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps


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

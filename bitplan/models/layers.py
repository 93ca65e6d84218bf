"""Which weights of a model get a scheme, and the way back from a layer to its weight."""

import re
from collections import Counter

from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models.classify import canonical_weight
from bitplan.models.scan import Weight, scan
from bitplan.names import EACH, TOGETHER
from bitplan.schema import Kind, Layer, of_each_expert


def find_layers(model: nn.Module, *, experts: str = TOGETHER) -> tuple[Layer, ...]:
    """The layers of a model, in the order of its blocks.

    Linear and Conv1D modules, convolutions, embeddings and the 3-D expert parameters of
    mixture-of-experts models, each a layer with all its experts, or with `experts="each"` a layer
    each; whatever shares storage is one layer. Raises `ModelError` when there is none.
    """
    layers = layers_of(model, scan(model).weights)
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no layer that bitplan can quantize: no Linear, Conv1D, "
            "convolution, Embedding or expert weights in floating point. If it was quantized by "
            "another tool, load the original model instead."
        )
    return of_each_expert(layers) if experts == EACH else layers


def layers_of(model: nn.Module, weights: list[Weight]) -> tuple[Layer, ...]:
    """Layers from the weights of a scan, with their blocks and what runtimes fuse."""
    keys = [_fuse_key(weight) for weight in weights]
    members = Counter(keys)
    return tuple(
        Layer(
            name=weight.name,
            kind=weight.kind,
            shape=weight.shape,
            block=_block(model, weight.slot.path),
            tied=weight.tied,
            fuse=key[0] if key and members[key] > 1 else None,
        )
        for weight, key in zip(weights, keys, strict=True)
    )


def module_of(model: nn.Module, layer: Layer) -> nn.Module:
    """The module that holds a layer's weight. Raises `ModelError` where the model has none."""
    path = layer.parameter.rpartition(".")[0]
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ModelError(
            f"The model has no module {path!r}. It is another model than the layers were found "
            "in: give the same one."
        ) from None


def weight_of(model: nn.Module, layer: Layer) -> Tensor:
    """A layer's weight as [out, in], or [experts, out, in]: a detached view, never a copy.

    Writing into it changes the model. Raises `ModelError` when the model has no such weight.
    """
    module = module_of(model, layer)
    name = layer.parameter.rpartition(".")[2]
    if not isinstance(getattr(module, name, None), Tensor):
        raise ModelError(
            f"{layer.name} holds no dense weight: it is a {type(module).__name__}. Give the "
            "model as it was before it was compressed."
        )
    weight = canonical_weight(module, name, layer.kind)
    if layer.expert is not None and layer.expert < len(weight):
        weight = weight[layer.expert]
    if tuple(weight.shape) != layer.shape:
        raise ModelError(
            f"{layer.name} has shape {tuple(weight.shape)}, but the layer has {layer.shape}. It "
            "is another model than the layers were found in: give the same one."
        )
    return weight


def _block(model: nn.Module, path: str) -> int | None:
    """The index in the first ModuleList on the path."""
    module = model
    for part in path.split("."):
        if isinstance(module, nn.ModuleList):
            return int(part)
        module = getattr(module, part)
    return None


def _fuse_key(weight: Weight) -> tuple[str, int] | None:
    """What runtimes multiply at once: its name, and how long the rows that they join are."""
    parent, _, leaf = weight.slot.path.rpartition(".")
    if weight.kind is Kind.EXPERTS:
        return weight.slot.path, 0
    if weight.kind is not Kind.LINEAR:
        return None
    if experts := _EXPERTS.match(parent):
        return experts[1], 0
    group = _FUSED.get(leaf)
    if group == "qkv" and _CROSS.search(parent):
        # Cross-attention reads keys and values from one input, queries from another.
        group = None if leaf.startswith("q") else "kv"
    return (f"{parent}.{group}".lstrip("."), weight.shape[-1]) if group else None


_FUSED_LEAVES = {
    "qkv": "q_proj k_proj v_proj query key value q k v q_lin k_lin v_lin wq wk wv",
    "gate_up": "gate_proj up_proj w1 w3 wi_0 wi_1",
}
_FUSED = {leaf: group for group, leaves in _FUSED_LEAVES.items() for leaf in leaves.split()}
_CROSS = re.compile(r"(cross[^.]*|encoder_attn|EncDecAttention)(\.[^.]+)?$")
_EXPERTS = re.compile(r"(.*\.experts)\.[^.]+$")

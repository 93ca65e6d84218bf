"""Model + plan -> model with packed layers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bitplan.cache import pack_caches
from bitplan.composed import hold
from bitplan.errors import PlanError
from bitplan.formats import TORCH_DTYPES, Packed
from bitplan.mixed import MixedWeight
from bitplan.models import module_of, weight_of
from bitplan.modules import PackedConvolution, PackedEmbedding, PackedLinear
from bitplan.one_token import step_by_step
from bitplan.progress import Progress, quiet, track
from bitplan.registered import METHOD, register
from bitplan.schema import Kind, Layer, Plan, Scheme, Stack, Unit, units_of
from bitplan.siblings import Siblings
from bitplan.weight import AbstractWeight

PackedOf = Callable[[Layer, Scheme], Packed]
"""Where compressed weights come from: rendered, read from a store, or empty to be filled."""


def pack_layers(
    model: nn.Module,
    schemes: Mapping[Layer, Scheme],
    packed_of: PackedOf,
    *,
    progress: Progress = quiet,
) -> nn.Module:
    """Put packed layers in place of dense ones, in the model itself; dense memory is freed.

    A layer whose scheme is the dtype that it already has is left alone.
    """
    return pack_units(
        model,
        units_of(schemes),
        lambda stack: _of_members(model, stack, packed_of),
        progress=progress,
    )


def pack_units(
    model: nn.Module,
    units: Sequence[Unit],
    packed_of: Callable[[Stack], Packed],
    *,
    progress: Progress = quiet,
) -> nn.Module:
    """The same, where experts that are held together come together."""
    for unit in track(units, "apply", progress, len(units)):
        if not all(_already(model, unit.layer, stack.scheme) for stack in unit.stacks):
            pack_unit(model, unit, [packed_of(stack) for stack in unit.stacks])
    if any(unit.layer.kind is Kind.EXPERTS for unit in units):
        run_experts(model)
    introduce(model)
    return step_by_step(model)


def pack_layer(model: nn.Module, layer: Layer, packed: Packed, *, arrange: bool = True) -> None:
    """Put one packed weight in place of the dense one, wherever it is tied to.

    Without `arrange` it stays as it is stored, until `arrange_layers`.
    """
    [unit] = units_of(dict.fromkeys([layer], packed.scheme))
    pack_unit(model, unit, [packed], arrange=arrange)


def pack_unit(
    model: nn.Module, unit: Unit, packed: Sequence[Packed], *, arrange: bool = True
) -> None:
    """The same for what is packed as several stacks."""
    layer = unit.layer
    dense = weight_of(model, layer)
    module = module_of(model, layer)
    if layer.kind is Kind.EXPERTS:
        name = layer.name.rpartition(".")[2]
        transposed = dense.stride() != getattr(module, name).stride()
        stacks = [hold(one, compute_dtype=dense.dtype, transposed=transposed) for one in packed]
        experts = [stack.experts for stack in unit.stacks]
        weight = stacks[0] if len(stacks) == 1 else MixedWeight(stacks, experts)
        if arrange:
            weight.arrange()
        delattr(module, name)
        module.add_module(name, weight)
        # Where the module does not say which way round its weights are, their shapes told so far.
        module.is_transposed = transposed
        return
    [one] = packed
    names = (layer.name, *layer.tied)
    lookup = any(isinstance(model.get_submodule(name), nn.Embedding) for name in names)
    weight = hold(one, compute_dtype=dense.dtype)
    is_convolution = any(
        isinstance(model.get_submodule(name), nn.modules.conv._ConvNd) for name in names
    )
    if arrange and not is_convolution:
        weight.arrange(lookup=lookup)
    for name in names:
        replacement = _replacement(model.get_submodule(name), weight)
        if isinstance(replacement, PackedLinear) and name == layer.name:
            replacement.fuse = layer.fuse
        model.set_submodule(name, replacement)


def arrange_layers(model: nn.Module) -> nn.Module:
    """Lay the packed weights of a model out for the machine, where `pack_layer` did not."""
    holders = [m for m in model.modules() if isinstance(m, PackedLinear | PackedEmbedding)]
    looked_up = {one.weight for one in holders if isinstance(one, PackedEmbedding)}
    for weight in {one.weight: None for one in holders}:
        weight.arrange(lookup=weight in looked_up)
    for module in model.modules():
        if isinstance(module, AbstractWeight) and len(module.shape) == 3:  # experts
            module.arrange()
    introduce(model)
    return step_by_step(model)


def introduce(model: nn.Module) -> None:
    """Let packed linears that have a `fuse` in common know each other."""
    families: dict[str, list[PackedLinear]] = {}
    for module in model.modules():
        if isinstance(module, PackedLinear) and module.fuse is not None:
            families.setdefault(module.fuse, []).append(module)
    for family in families.values():
        siblings = Siblings() if len(family) > 1 else None
        for module in family:
            module.siblings = siblings


def pack_caches_of(model: nn.Module, plan: Plan) -> nn.Module:
    """Let a model generate with the cache of a plan, if the plan has one."""
    schemes = {c.layer.name: c.scheme for c in plan.choices if c.layer.is_cache}
    if schemes:
        pack_caches(model, schemes, context=plan.provenance.context)
    return model


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, shared storage counted once."""
    seen: dict[int, int] = {}
    tensors: Iterable[Tensor] = (*model.parameters(), *model.buffers())
    for tensor in tensors:
        seen[tensor.data_ptr() or id(tensor)] = tensor.nbytes
    return sum(seen.values())


def check_plan(plan: Plan, layers: Iterable[Layer], digest: str | None) -> None:
    """Raise `PlanError` unless the plan was made for a model of these layers and this digest.

    `digest` None leaves the weights unchecked.
    """
    ours = {layer.name: layer for layer in layers}
    theirs = {choice.layer.name: choice.layer for choice in plan.choices}
    problems = {
        "lacks layers of the model": [name for name in ours if name not in theirs],
        "has layers that the model lacks": [name for name in theirs if name not in ours],
        "has other shapes than the model": [
            f"{name} {list(theirs[name].shape)} for {list(ours[name].shape)}"
            for name in ours
            if name in theirs and theirs[name].shape != ours[name].shape
        ],
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise PlanError(
                f"The plan, made for {plan.provenance.model}, {problem}: "
                f"{', '.join(names[:3])}{more}. Give the model that it was made for, or make a "
                "plan for this one."
            )
    if digest is not None and digest != plan.provenance.model_digest:
        raise PlanError(
            f"The plan was made for other weights of this architecture: {plan.provenance.model}, "
            f"digest {plan.provenance.model_digest[:12]}; this model has {digest[:12]}. Give the "
            "model that it was made for, or make a plan for this one."
        )


def _of_members(model: nn.Module, stack: Stack, packed_of: PackedOf) -> Packed:
    """A layer's packed weight, or its experts', one after another in one."""
    if stack.members == (stack.layer,):
        return packed_of(stack.layer, stack.scheme)

    def one(expert: Layer) -> Packed:
        if _already(model, expert, stack.scheme):
            return Packed.cast(stack.scheme, weight_of(model, expert))
        return packed_of(expert, stack.scheme)

    return Packed.stacked(map(one, stack.members), len(stack.members))


def _already(model: nn.Module, layer: Layer, scheme: Scheme) -> bool:
    return scheme.is_float and weight_of(model, layer).dtype == TORCH_DTYPES[scheme.format]


def _replacement(module: Any, weight: AbstractWeight) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return PackedEmbedding(weight, getattr(module, "embed_scale", None))
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return PackedConvolution(weight, module)
    return PackedLinear(weight, module.bias)


def run_experts(model: Any) -> None:
    """Have a model run experts as `routed` does: other ways read all as one dense tensor."""
    if hasattr(model, "set_experts_implementation"):
        register()  # where `import bitplan` was too early
        model.set_experts_implementation(METHOD)

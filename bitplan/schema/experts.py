"""Experts that share a tensor: one layer, or a layer each; those of one scheme are a stack."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bitplan.schema.layer import Kind, Layer
from bitplan.schema.scheme import Scheme


def of_each_expert(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The same layers, with one for each expert in place of one for all of a tensor.

    They keep `fuse`: what asks for one scheme there asks it of all experts of a block.
    """
    found: list[Layer] = []
    for layer in layers:
        if layer.kind is not Kind.EXPERTS or layer.expert is not None or layer.tied:
            found.append(layer)
            continue
        count, *shape = layer.shape
        found += [
            layer.model_copy(update={"name": f"{layer.name}.{index}", "shape": tuple(shape)})
            for index in range(count)
        ]
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What is held as one: a layer, or those experts of a tensor that have the same scheme.

    `layer` is the whole of it, [experts, out, in] for experts; `members` are a plan's layers.
    """

    layer: Layer
    scheme: Scheme
    members: tuple[Layer, ...]

    @property
    def experts(self) -> list[int]:
        """Which experts of the tensor they are, where each is a layer."""
        return [member.expert for member in self.members if member.expert is not None]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What stands in for one dense weight; more than one stack where its experts differ."""

    layer: Layer
    stacks: tuple[Stack, ...]


def units_of(schemes: Mapping[Layer, Scheme]) -> list[Unit]:
    """What holds layers in these schemes, in their order.

    Of experts in several schemes, a stack is called as the tensor, with the stack's number.
    """
    together: dict[str, list[Layer]] = {}
    for layer in schemes:
        together.setdefault(layer.parameter, []).append(layer)
    return [_unit(layers, schemes) for layers in together.values()]


def _unit(layers: Sequence[Layer], schemes: Mapping[Layer, Scheme]) -> Unit:
    first = layers[0]
    if first.expert is None:
        stack = Stack(layer=first, scheme=schemes[first], members=(first,))
        return Unit(layer=first, stacks=(stack,))
    by_scheme: dict[Scheme, list[Layer]] = {}
    for layer in sorted(layers, key=lambda layer: layer.expert or 0):
        by_scheme.setdefault(schemes[layer], []).append(layer)
    is_one = len(by_scheme) == 1
    stacks = [
        Stack(
            layer=_all(members, first.parameter if is_one else f"{first.parameter}.{number}"),
            scheme=scheme,
            members=tuple(members),
        )
        for number, (scheme, members) in enumerate(by_scheme.items())
    ]
    return Unit(layer=_all(layers, first.parameter), stacks=tuple(stacks))


def _all(experts: Sequence[Layer], name: str) -> Layer:
    shape = (len(experts), *experts[0].shape)
    return experts[0].model_copy(update={"name": name, "shape": shape})

"""Experts as layers of their own, and as the stacks that hold those of one scheme."""

import pytest
from pydantic import ValidationError

from bitplan.schema import Kind, Layer, Scheme, of_each_expert, units_of

LINEAR = Layer(name="block.0.q", kind=Kind.LINEAR, shape=(8, 4), block=0)
EXPERTS = Layer(
    name="block.0.experts.down", kind=Kind.EXPERTS, shape=(12, 8, 4), block=0, fuse="block.0"
)
INT3, INT4 = map(Scheme.parse, ("int3", "int4"))


def test_each_is_a_layer_of_its_own_and_all_else_is_as_it_was():
    first, *experts = of_each_expert([LINEAR, EXPERTS])
    assert first == LINEAR
    assert [one.name for one in experts] == [f"block.0.experts.down.{i}" for i in range(12)]
    assert [one.expert for one in experts] == [*range(12)]
    assert {(one.shape, one.block, one.fuse) for one in experts} == {((8, 4), 0, "block.0")}
    assert {one.parameter for one in experts} == {EXPERTS.name} == {EXPERTS.parameter}
    assert sum(one.parameters for one in experts) == EXPERTS.parameters
    assert of_each_expert(experts) == tuple(experts)
    assert (EXPERTS.expert, LINEAR.expert, LINEAR.parameter) == (None, None, "block.0.q.weight")


def test_tied_experts_stay_one_layer():
    tied = EXPERTS.model_copy(update={"tied": ("block.1.experts.down",)})
    assert of_each_expert([tied]) == (tied,)


def test_those_of_one_scheme_are_a_stack():
    experts = of_each_expert([EXPERTS])
    schemes = {one: INT4 if one.expert in (1, 10) else INT3 for one in experts}
    linear, unit = units_of({LINEAR: INT4, **schemes})
    assert linear.layer == LINEAR
    assert [stack.members for stack in linear.stacks] == [(LINEAR,)]
    assert unit.layer == EXPERTS
    assert [(stack.layer.name, stack.scheme, stack.experts) for stack in unit.stacks] == [
        ("block.0.experts.down.0", INT3, [0, 2, 3, 4, 5, 6, 7, 8, 9, 11]),
        ("block.0.experts.down.1", INT4, [1, 10]),
    ]
    assert [stack.layer.shape for stack in unit.stacks] == [(10, 8, 4), (2, 8, 4)]
    # In whatever order they come.
    assert units_of(dict(reversed(schemes.items()))) == [unit]


@pytest.mark.parametrize("layers", [[EXPERTS], of_each_expert([EXPERTS])])
def test_in_one_scheme_they_are_held_as_one_tensor(layers):
    [unit] = units_of(dict.fromkeys(layers, INT4))
    [stack] = unit.stacks
    assert stack.layer == unit.layer == EXPERTS
    assert stack.members == tuple(layers)


@pytest.mark.parametrize("name", ["experts.down", "experts.down.first", "3"])
def test_one_expert_has_a_number(name):
    with pytest.raises(ValidationError, match="is one expert, but its name has no number"):
        Layer(name=name, kind=Kind.EXPERTS, shape=(8, 4))

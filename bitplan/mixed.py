"""Experts of one tensor in several schemes."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.expert import Expert
from bitplan.formats import Packed
from bitplan.kernels import grouped_of_several
from bitplan.packed_weight import PackedWeight
from bitplan.weight import AbstractWeight, is_one


class MixedWeight(AbstractWeight):
    """A weight [experts, out, in] as several: a stack of those experts that have one scheme.

    `stacks` hold them, each by its number, and `experts` says which ones each of them holds.
    Products go to the stack of their expert. Where Triton multiplies, which experts a stack holds
    is kept on the device, eight bytes each beside what the file takes.
    """

    def __init__(self, stacks: Sequence[AbstractWeight], experts: Sequence[Sequence[int]]) -> None:
        super().__init__()
        for number, stack in enumerate(stacks):
            self.add_module(str(number), stack)
        self.experts = [list(some) for some in experts]
        self.places = {
            expert: (number, place)
            for number, some in enumerate(self.experts)
            for place, expert in enumerate(some)
        }
        self.shape = torch.Size((len(self.places), *stacks[0].shape[1:]))
        self.transposed = stacks[0].transposed
        self._members: list[Tensor] = []

    @property
    def stacks(self) -> list[AbstractWeight]:
        """Each [some experts, out, in], in a scheme of its own."""
        return [stack for stack in self._modules.values() if isinstance(stack, AbstractWeight)]

    @property
    def compute_dtype(self) -> torch.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What experts decode to."""
        return self.stacks[0].compute_dtype

    def packed(self, expert: int | None = None) -> Packed:
        """The canonical tensors of one expert; together they have no scheme."""
        assert expert is not None
        stack, place = self._place(expert)
        return stack.packed(place)

    def arrange(self, *, lookup: bool = False, kernel: str | None = None) -> None:
        """Lay each stack out for the fastest implementation that it has, or for `kernel`."""
        for stack in self.stacks:
            stack.arrange(lookup=lookup, kernel=kernel)

    def multiply(
        self, inputs: Float[Tensor, "*tokens in"], expert: int | None = None
    ) -> Float[Tensor, "*tokens out"]:
        """Product with the transposed weight of an expert, in the inputs' dtype."""
        assert expert is not None
        stack, place = self._place(expert)
        return stack.multiply(inputs, place)

    @property
    def is_grouped(self) -> bool:
        """See `AbstractWeight.is_grouped`."""
        return all(stack.is_grouped for stack in self.stacks)

    def multiply_sorted(
        self, inputs: Float[Tensor, "tokens in"], ends: Int[Tensor, "experts"]
    ) -> Float[Tensor, "tokens out"]:
        """See `AbstractWeight.multiply_sorted`: a launch for each stack."""
        tensors = (inputs, *self.parameters())
        has_slope = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if has_slope or not self.is_grouped:
            return super().multiply_sorted(inputs, ends)
        self.check(inputs)
        stacks = [stack for stack in self.stacks if isinstance(stack, PackedWeight)]
        held = [stack.held() for stack in stacks]
        schemes = [stack.scheme for stack in stacks]
        return grouped_of_several(inputs, ends, self._members_on(ends.device), held, schemes)

    def lookup(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Experts are no table."""
        raise TypeError("Rows of experts are not looked up.")

    def __getitem__(self, index: Any) -> Expert | Tensor:
        """One expert, or the dense weights of several, the way round that the model stores them."""
        if not is_one(index):
            return self._dense()[index]
        stack, place = self._place(range(self.shape[0])[int(index)])  # or an IndexError
        return stack[place]

    def _place(self, expert: int) -> tuple[AbstractWeight, int]:
        number, place = self.places[expert]
        stack = self._modules[str(number)]
        assert isinstance(stack, AbstractWeight)
        return stack, place

    def _members_on(self, device: torch.device) -> list[Tensor]:
        if not self._members or self._members[0].device != device:
            self._members = [
                torch.tensor(some, dtype=torch.int64, device=device) for some in self.experts
            ]
        return self._members

    def _is_batch_of(self, inputs: Any) -> bool:
        is_batch = isinstance(inputs, Tensor) and inputs.shape[:-2] == self.shape[:1]
        return self.transposed and is_batch

    def _dense(self, expert: int | None = None) -> Tensor:
        if expert is not None:
            return self._decode(self.packed(expert))
        return torch.stack([self._dense(expert) for expert in range(self.shape[0])])

    def extra_repr(self) -> str:
        """Shape, and how many experts are in each scheme."""
        each = zip(self.stacks, self.experts, strict=True)
        counts = ", ".join(f"{len(some)} {stack.scheme}" for stack, some in each)
        return f"{list(self.shape)}, {counts}"

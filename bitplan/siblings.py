"""Packed linears that are given the same inputs one after another, and so run as one launch.

Queries, keys and values of a block are three modules that a model calls one by one. On a GPU the
first that is called has all three products made (see `bitplan.kernels.one_launch`), returns its
own, and leaves the others' for the modules that they are of. Who follows whom is not told but seen:
what was called with the very tensor that another was called with just before. Where one that
followed does not, as in cross-attention, what was made for it is thrown away and it is forgotten.

Nothing is ever taken that the module would not make itself: the inputs have to be the same object
in the same version, which an inference tensor does not tell, and the weight's tensors the same, on
the same stream and thread. Changes that torch does not count, through `data` or a pointer, between
two siblings of one step are not seen. Inputs are held by a weak reference alone.
"""

import threading
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels import one_launch
from bitplan.kernels.gpu.numbers import DTYPES
from bitplan.kernels.gpu.operator import linears
from bitplan.kernels.gpu.shapes import DECODE_TOKENS
from bitplan.weight import AbstractWeight

MISSES = 3
"""So often those that follow one may not take what was made for them."""


@dataclass(eq=False)
class _Led:
    """The weights that follow one, and how often some did not."""

    followers: list[ref[AbstractWeight]] = field(default_factory=list)
    misses: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class _State:
    """The tensors of a weight as they are at one time."""

    layout: object
    tensors: tuple[Tensor, ...]
    moments: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, weight: AbstractWeight) -> "_State | None":
        tensors = tuple(_tensors(weight).values())
        try:
            moments = tuple((tensor._version, tensor.data_ptr()) for tensor in tensors)
        except RuntimeError:  # inference tensors do not tell
            return None
        return cls(layout=weight.layout, tensors=tensors, moments=moments)

    def is_still(self, weight: AbstractWeight) -> bool:
        now = _State.of(weight)
        if now is None or now.layout is not self.layout or now.moments != self.moments:
            return False
        return all(a is b for a, b in zip(now.tensors, self.tensors, strict=True))


class _Round:
    """One tensor that siblings of one thread are given, and what was made of it for them."""

    def __init__(self, leader: AbstractWeight, inputs: Tensor, moment: tuple[Any, ...]) -> None:
        self.leader, self.moment = ref(leader), moment
        self.products: dict[ref[AbstractWeight], tuple[_State, Tensor]] = {}
        self.is_missed = False
        self.inputs = ref(inputs, self._drop)

    def _drop(self, _: object) -> None:
        self.is_missed = bool(self.products)
        self.products = {}

    def is_of(self, inputs: Tensor, moment: tuple[Any, ...]) -> bool:
        return self.inputs() is inputs and self.moment == moment

    def take(self, weight: AbstractWeight) -> Tensor | None:
        """The product that was made for a weight, once, if it is what it was then."""
        state, product = self.products.pop(ref(weight), (None, None))
        return product if state is not None and state.is_still(weight) else None


class Siblings:
    """What some packed linears of a model know of each other.

    A copy, and what is pickled, knows nothing yet.
    """

    def __init__(self) -> None:
        self._led: WeakKeyDictionary[AbstractWeight, _Led] = WeakKeyDictionary()
        self._of_thread = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return Siblings, ()

    def multiply(
        self, weight: AbstractWeight, inputs: Float[Tensor, "*tokens in"]
    ) -> Float[Tensor, "*tokens out"]:
        """As `weight.multiply`, which it may be in one launch with others."""
        moment = _moment(inputs) if _is_few(weight, inputs) else None
        if moment is None:
            return weight.multiply(inputs)
        present = getattr(self._of_thread, "round", None)
        if present is None or present.leader() is weight or not present.is_of(inputs, moment):
            if present is not None and (present.products or present.is_missed):
                self._miss(present.leader())
            return self._lead(weight, inputs, moment)
        product = present.take(weight)
        if product is not None:
            return product
        self._learn(present.leader(), weight)
        return weight.multiply(inputs)

    def _lead(self, weight: AbstractWeight, inputs: Tensor, moment: tuple[Any, ...]) -> Tensor:
        """Begin a round: make the product, and those for the ones that follow."""
        present = _Round(weight, inputs, moment)
        self._of_thread.round = present
        led = self._led.get(weight)
        found = [follower() for follower in led.followers] if led else []
        others = [one for one in found if one is not None and _is_few(one, inputs)]
        weights = [weight, *others]
        if not others or not _is_one_launch(weights, inputs):
            return weight.multiply(inputs)
        states = [_State.of(one) for one in others]
        arranged = [_tensors(one) for one in weights]
        own, *products = linears(inputs, arranged, [one.scheme for one in weights])
        for one, state, product in zip(others, states, products, strict=True):
            if state is not None:
                present.products[ref(one)] = state, product
        return own

    def _learn(self, leader: AbstractWeight | None, weight: AbstractWeight) -> None:
        if leader is None or leader is weight:
            return
        led = self._led.setdefault(leader, _Led())
        if led.misses < MISSES and ref(weight) not in led.followers:
            led.followers.append(ref(weight))

    def _miss(self, leader: AbstractWeight | None) -> None:
        if leader is not None:
            led = self._led.setdefault(leader, _Led())
            led.misses += 1
            led.followers = []


def _is_few(weight: Any, inputs: Tensor) -> bool:
    """Whether a weight's product with inputs is one of a kernel for few tokens, and no other."""
    if getattr(weight, "implementation", None) != "triton" or "multiply" in vars(weight):
        return False
    if type(inputs) is not Tensor or inputs.dtype not in DTYPES.values():
        return False
    columns = weight.shape[-1]
    if inputs.shape[-1:] != (columns,) or not 0 < inputs.numel() <= DECODE_TOKENS * columns:
        return False
    held = _tensors(weight).values()
    if any(tensor.device != inputs.device for tensor in held):
        return False
    is_free = not inputs.requires_grad and not any(tensor.requires_grad for tensor in held)
    return is_free or not torch.is_grad_enabled()


def _is_one_launch(weights: list[AbstractWeight], inputs: Tensor) -> bool:
    # Imported here, for it needs Triton.
    from bitplan.kernels.gpu.launch import device_of

    columns = inputs.shape[-1]
    of_each = tuple((weight.scheme, weight.shape[0]) for weight in weights)
    tokens = inputs.numel() // columns
    return one_launch(of_each, columns, tokens, device_of(inputs.device))[0] is not None


def _tensors(weight: AbstractWeight) -> dict[str, Tensor]:
    held = {**weight._parameters, **weight._buffers}
    return {name: tensor for name, tensor in held.items() if tensor is not None}


def _moment(inputs: Tensor) -> tuple[Any, ...] | None:
    """What a tensor is and when; None where it does not tell."""
    try:
        version, place = inputs._version, inputs.data_ptr()
    except RuntimeError:  # an inference tensor, or one of a transform of torch.func
        return None
    stream = torch.cuda.current_stream(inputs.device).cuda_stream if inputs.is_cuda else None
    return version, place, inputs.shape, inputs.stride(), stream

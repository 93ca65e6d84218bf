"""What every packed weight can do, however it is stored."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import InputError
from bitplan.expert import Expert
from bitplan.formats import Packed
from bitplan.schema import Scheme


class AbstractWeight(nn.Module, ABC):
    """One weight in its scheme: [out, in], or [experts, out, in] and then indexed by expert.

    `compute_dtype` is what lookups and experts decode to; `transposed` says that the model reads
    its experts as [in, out]; `layout` is another object whenever other tensors are held.
    """

    scheme: Scheme
    shape: torch.Size
    transposed: bool
    compute_dtype: torch.dtype
    layout: object = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, Tensor):
            self.layout = object()

    @abstractmethod
    def packed(self, expert: int | None = None) -> Packed:
        """The canonical tensors, or those of one expert."""

    @abstractmethod
    def arrange(self, *, lookup: bool = False, kernel: str | None = None) -> None:
        """Lay the tensors out for the fastest implementation there is, or for `kernel`.

        `lookup` says that rows are looked up in it; see `choose`.
        """

    @abstractmethod
    def multiply(
        self, inputs: Float[Tensor, "*tokens in"], expert: int | None = None
    ) -> Float[Tensor, "*tokens out"]:
        """Product with the transposed weight, or with an expert's, in the inputs' dtype."""

    @property
    def is_grouped(self) -> bool:
        """Whether `multiply_sorted` takes all experts at once, and does not wait for the device."""
        return False

    def multiply_sorted(
        self, inputs: Float[Tensor, "tokens in"], ends: Int[Tensor, "experts"]
    ) -> Float[Tensor, "tokens out"]:
        """Product of tokens that are sorted by expert, each with the transposed weight of its own.

        `ends` says where each expert's end; the last one's are the last.
        """
        firsts = [0, *ends.tolist()]
        parts = [inputs[first:end] for first, end in pairwise(firsts)]
        return torch.cat([self.multiply(part, expert) for expert, part in enumerate(parts)])

    def few(self, count: int, dtype: torch.dtype) -> Any:
        """Jobs for what `multiply` does with so many vectors, of float32 to float32, or None.

        See `bitplan.kernels.native.weight.few`. They are of the tensors that are held now, as long
        as `layout` is the same object.
        """
        del count, dtype

    @abstractmethod
    def lookup(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Rows of the weight."""

    @property
    def dtype(self) -> torch.dtype:
        """What the weight is computed in: models ask a weight for it, to cast what they compute."""
        return self.compute_dtype

    def check(self, inputs: Tensor) -> None:
        """Raise `InputError` for inputs of another width than the weight's rows, or no floats."""
        if not inputs.is_floating_point():
            raise InputError(
                f"The inputs are {str(inputs.dtype)[6:]}, but a product takes floating-point "
                "numbers. Convert them, as the dense layer would have asked for."
            )
        if inputs.shape[-1] != self.shape[-1]:
            raise InputError(
                f"The inputs have {inputs.shape[-1]} features, but the weight takes "
                f"{self.shape[-1]}. Give it what the dense layer was given."
            )

    def __getitem__(self, index: Any) -> Expert | Tensor:
        """One expert, or the dense weights of several, the way round that the model stores them."""
        if len(self.shape) == 3 and is_one(index) and not self.scheme.is_float:
            expert = range(self.shape[0])[int(index)]  # an IndexError where there is none
            multiply = partial(self.multiply, expert=expert)
            return Expert(multiply, partial(self._dense, expert), transposed=self.transposed)
        tensors = {name: tensor[index] for name, tensor in self.packed().tensors.items()}
        return self._decode(
            Packed(scheme=self.scheme, shape=tuple(self.shape[1:]), tensors=tensors)
        )

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Multiply all experts with inputs of their own, each as it is packed, as Llama 4 does.

        In any other function of tensors take part as the dense weight, the way round that it was
        stored, which lives for that call alone.
        """
        if func in _MATMULS and not kwargs:
            inputs, weight = args
            if isinstance(weight, cls) and weight._is_batch_of(inputs):
                return weight._multiply_batch(inputs)
        if not any(isinstance(arg, cls) for arg in args):
            return NotImplemented  # it is within a list or a keyword, where none was seen so far
        dense = [arg._dense() if isinstance(arg, cls) else arg for arg in args]
        return func(*dense, **(kwargs or {}))

    def _multiply_batch(
        self, inputs: Float[Tensor, "experts tokens in"]
    ) -> Float[Tensor, "experts tokens out"]:
        if self.is_grouped:
            experts, tokens, _ = inputs.shape
            each = torch.arange(1, experts + 1, dtype=torch.int32, device=inputs.device)
            products = self.multiply_sorted(inputs.flatten(0, 1), each * tokens)
            return products.unflatten(0, (experts, tokens))
        return torch.stack([self.multiply(one, i) for i, one in enumerate(inputs)])

    def _is_batch_of(self, inputs: Any) -> bool:
        """Whether these are [experts, tokens, in], and are multiplied with [experts, in, out]."""
        is_packed = self.transposed and len(self.shape) == 3 and not self.scheme.is_float
        return is_packed and isinstance(inputs, Tensor) and inputs.shape[:-2] == self.shape[:1]

    def _dense(self, expert: int | None = None) -> Tensor:
        return self._decode(self.packed(expert))

    def _decode(self, packed: Packed) -> Tensor:
        weight = packed.decode(self.compute_dtype)
        return weight.transpose(-2, -1) if self.transposed else weight

    def extra_repr(self) -> str:
        """Shape and scheme."""
        return f"{list(self.shape)}, {self.scheme}"


def is_one(index: Any) -> bool:
    """Whether an index names one expert."""
    return isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0)


_MATMULS = (torch.bmm, Tensor.bmm, torch.matmul, Tensor.matmul)

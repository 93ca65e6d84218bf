"""What every packed weight can do, however it is stored."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import InputError
from bitplan.formats import Packed
from bitplan.schema import Scheme


class AbstractWeight(nn.Module, ABC):
    """One weight in its scheme: [out, in], or [experts, out, in] and then indexed by expert.

    `compute_dtype` is what lookups and experts decode to; `transposed` says that the model reads
    its experts as [in, out].
    """

    scheme: Scheme
    shape: torch.Size
    transposed: bool
    compute_dtype: torch.dtype

    @abstractmethod
    def packed(self) -> Packed:
        """The canonical tensors."""

    @abstractmethod
    def arrange(self, *, lookup: bool = False, kernel: str | None = None) -> None:
        """Lay the tensors out for the fastest implementation there is, or for `kernel`.

        `lookup` says that rows are looked up in it; see `choose`.
        """

    @abstractmethod
    def multiply(self, inputs: Float[Tensor, "*tokens in"]) -> Float[Tensor, "*tokens out"]:
        """Product of the inputs with the transposed weight, in the inputs' dtype."""

    @abstractmethod
    def lookup(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Rows of the weight."""

    @property
    def dtype(self) -> torch.dtype:
        """What the weight is computed in: models ask a weight for it, to cast what they compute."""
        return self.compute_dtype

    def check(self, inputs: Tensor) -> None:
        """Raise `InputError` for inputs of another width than the weight's rows."""
        if inputs.shape[-1] != self.shape[-1]:
            raise InputError(
                f"The inputs have {inputs.shape[-1]} features, but the weight takes "
                f"{self.shape[-1]}. Give it what the dense layer was given."
            )

    def __getitem__(self, expert: int | Tensor) -> Tensor:
        """One expert's dense weight, the way round that the model stores it."""
        packed = self.packed()
        tensors = {name: tensor[expert] for name, tensor in packed.tensors.items()}
        part = Packed(scheme=self.scheme, shape=tuple(self.shape[1:]), tensors=tensors)
        weight = part.decode(self.compute_dtype)
        return weight.t() if self.transposed else weight

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take part in a function of tensors as the dense weight, the way round it was stored.

        Llama 4 multiplies all experts at once; the dense weight lives for that call alone.
        """
        if not any(isinstance(arg, cls) for arg in args):
            return NotImplemented  # it is within a list or a keyword, where none was seen so far
        dense = [arg._dense() if isinstance(arg, cls) else arg for arg in args]
        return func(*dense, **(kwargs or {}))

    def _dense(self) -> Tensor:
        weight = self.packed().decode(self.compute_dtype)
        return weight.transpose(-2, -1) if self.transposed else weight

    def extra_repr(self) -> str:
        """Shape and scheme."""
        return f"{list(self.shape)}, {self.scheme}"

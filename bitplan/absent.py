"""A weight that is not stored: all of it is zero."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats import Packed
from bitplan.weight import AbstractWeight


class AbsentWeight(AbstractWeight):
    """A weight in the scheme `none`. Holds nothing, reads nothing, and returns zeros.

    The module around it still adds its bias. Attention made of such weights goes on to cache its
    keys and values, which are zeros: how many tokens a model has seen is asked of that cache.
    """

    def __init__(self, packed: Packed, *, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.scheme, self.shape = packed.scheme, torch.Size(packed.shape)
        self.compute_dtype, self.transposed = compute_dtype, False
        self.device = torch.device("cpu")  # where it was moved to: an adapter beside it goes there

    def packed(self, expert: int | None = None) -> Packed:
        """No tensors."""
        assert expert is None
        return Packed(scheme=self.scheme, shape=tuple(self.shape), tensors={})

    def arrange(self, *, lookup: bool = False, kernel: str | None = None) -> None:
        """There is nothing to lay out."""

    def multiply(
        self, inputs: Float[Tensor, "*tokens in"], expert: int | None = None
    ) -> Float[Tensor, "*tokens out"]:
        """Zeros, in the inputs' dtype."""
        self.check(inputs)
        return inputs.new_zeros(*inputs.shape[:-1], self.shape[0])

    def few(self, count: int, dtype: torch.dtype) -> Any:
        """See `AbstractWeight.few`: zeros are written."""
        # Imported here, for compiled loops take half a second to import.
        from bitplan.kernels.native.dense import absent

        del dtype
        rows, columns = self.shape
        return absent(rows, columns, count)

    def lookup(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Zeros."""
        shape = (*tokens.shape, self.shape[-1])
        return torch.zeros(shape, dtype=self.compute_dtype, device=tokens.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AbsentWeight":
        super()._apply(fn, recurse)
        moved = fn(torch.empty(0, dtype=self.compute_dtype, device=self.device))
        self.compute_dtype, self.device = moved.dtype, moved.device
        return self

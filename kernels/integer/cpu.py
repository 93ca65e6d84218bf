"""Integer weights on the CPU by compiled loops, in every width and shape.

`arrange` turns the canonical tensors into what the loops read, in as many bytes; `restore` turns
them back, exactly. One arrangement serves products and lookups.

`LOOPS` multiply on any processor. `DOT` are products of bytes, on processors that have them and for
whole spans of 32 columns: the quickest that is as exact as float32, see
`bitplan.kernels.native.dot_product`. `DOT8` are the same with inputs rounded to 8 bits, in steps of
their own for every 32, as llama.cpp rounds them: quicker, and not exact.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.kernels.native import dot, layout, vectors, weight
from bitplan.kernels.native.job import Terms
from bitplan.schema import Scheme


@dataclass(frozen=True)
class Loops:
    """One way to multiply.

    Args:
        quads: whether codes lie in quads, and are multiplied as bytes.
        digits: that inputs are written in then; None: as many as their dtype holds.
    """

    quads: bool = False
    digits: int | None = None

    def arrange(
        self, tensors: dict[str, Tensor], scheme: Scheme, columns: int
    ) -> dict[str, Tensor]:
        """From canonical tensors to those that the loops read, by the same names, of one axis."""
        del columns
        return weight.arrange(tensors, int(scheme.bits), quads=self.quads)

    def restore(
        self, arranged: dict[str, Tensor], scheme: Scheme, columns: int
    ) -> dict[str, Tensor]:
        """From the loops' tensors to the canonical ones."""
        bits, group = int(scheme.bits), scheme.group_size
        return weight.restore(arranged, columns, bits, group, quads=self.quads)

    def linear(
        self, inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
    ) -> Float[Tensor, "*tokens out"]:
        """Product with the transposed weight, in the inputs' dtype."""
        return weight.multiply(inputs, arranged, digits=self.digits, **self._numbers(scheme))

    def few(
        self,
        arranged: dict[str, Tensor],
        scheme: Scheme,
        columns: int,
        count: int,
        dtype: torch.dtype,
    ) -> Terms | None:
        """The product with a few vectors, for later: see `native.weight.few`."""
        numbers = self._numbers(scheme)
        return weight.few(arranged, columns, count, dtype, digits=self.digits, **numbers)

    def linear_back(
        self,
        gradient: Float[Tensor, "*tokens out"],
        arranged: dict[str, Tensor],
        scheme: Scheme,
        columns: int,
    ) -> Float[Tensor, "*tokens in"]:
        """Product with the weight itself: the gradient at the inputs of `linear`."""
        return weight.multiply_back(gradient, arranged, columns, **self._numbers(scheme))

    def lookup(
        self,
        tokens: Int[Tensor, "*tokens"],
        arranged: dict[str, Tensor],
        scheme: Scheme,
        columns: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "*tokens hidden"]:
        """Rows of an embedding; only those asked for are decoded."""
        return weight.chosen_rows(tokens, arranged, columns, dtype, **self._numbers(scheme))

    def _numbers(self, scheme: Scheme) -> dict[str, Any]:
        return {"bits": int(scheme.bits), "group": scheme.group_size, "quads": self.quads}


LOOPS, DOT, DOT8 = Loops(), Loops(quads=True), Loops(quads=True, digits=1)


def unfit(scheme: Scheme, rows: int, columns: int) -> str | None:
    """Why a weight cannot be multiplied as bytes; None: it can."""
    if dot.instructions() is None:
        return "This processor has no products of bytes"
    if columns % layout.SPAN or rows % vectors.ROWS:
        return f"Products of bytes take columns in {layout.SPAN}s and rows in {vectors.ROWS}s"
    if scheme.group_size and scheme.group_size % layout.SPAN:
        return f"Products of bytes take groups in {layout.SPAN}s"
    return None

"""A weight of several: a base, and the parts that its scheme adds."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats import Packed, in_place, rest_of
from bitplan.modules import PackedWeight
from bitplan.schema import BASE, COLUMNS, DOWN, SALIENT, UP
from bitplan.weight import AbstractWeight


def hold(packed: Packed, *, compute_dtype: torch.dtype, transposed: bool = False) -> AbstractWeight:
    """The module for a weight, of one part or of several."""
    kind = ComposedWeight if packed.scheme.is_composed else PackedWeight
    return kind(packed, compute_dtype=compute_dtype, transposed=transposed)


class ComposedWeight(AbstractWeight):
    """A `PackedWeight` for each part (see `bitplan.schema.parts`), with a kernel of its own.

    Of salient columns it holds `columns`, as the file does. Those of the base follow from them:
    they are worked out once, and take four bytes each beside what the file takes. The bytes of a
    plan are those of the file.
    """

    columns: Tensor | None

    def __init__(
        self, packed: Packed, *, compute_dtype: torch.dtype, transposed: bool = False
    ) -> None:
        super().__init__()
        self.scheme, self.shape = packed.scheme, torch.Size(packed.shape)
        self.compute_dtype, self.transposed = compute_dtype, transposed
        for name, part in packed.split().items():
            self.add_module(name, PackedWeight(part, compute_dtype=compute_dtype))
        if COLUMNS in packed.tensors:
            self.register_buffer(COLUMNS, packed.tensors[COLUMNS])
        self._rest: tuple[Tensor, Tensor] | None = None  # salient columns, and those that are not

    def _parts(self) -> dict[str, PackedWeight]:
        return {
            name: part for name, part in self._modules.items() if isinstance(part, PackedWeight)
        }

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._parts()[BASE].device

    def packed(self, expert: int | None = None) -> Packed:
        """The canonical tensors of all parts, or those of one expert."""
        packed = {name: part.packed(expert) for name, part in self._parts().items()}
        shape, columns = tuple(self.shape), self._buffers.get(COLUMNS)
        if expert is not None:
            shape, columns = shape[1:], None if columns is None else columns[expert]
        return Packed.join(self.scheme, shape, packed, columns)

    def arrange(self, *, lookup: bool = False, kernel: str | None = None) -> None:
        """Lay each part out for the fastest implementation that it has, or for `kernel`."""
        for part in self._parts().values():
            part.arrange(lookup=lookup, kernel=kernel)
        if (columns := self._buffers.get(COLUMNS)) is not None:
            self._rest_of(columns)  # now, so that a product changes nothing

    def multiply(
        self, inputs: Float[Tensor, "*tokens in"], expert: int | None = None
    ) -> Float[Tensor, "*tokens out"]:
        """Product with the transposed weight, or an expert's: the sum of those of the parts."""
        self.check(inputs)
        parts, columns = self._parts(), self._buffers.get(COLUMNS)
        if columns is None:
            output = parts[BASE].multiply(inputs, expert)
        else:
            rest = self._rest_of(columns)
            if expert is not None:
                rest, columns = rest[expert], columns[expert]
            output = parts[BASE].multiply(inputs.index_select(-1, rest), expert)
            kept = parts[SALIENT].multiply(inputs.index_select(-1, columns), expert)
            output = output + kept
        if UP in parts:
            output = output + parts[UP].multiply(parts[DOWN].multiply(inputs, expert), expert)
        return output

    def lookup(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Rows of the weight."""
        parts, columns = self._parts(), self._buffers.get(COLUMNS)
        rows = parts[BASE].lookup(tokens)
        if columns is not None:
            rows = in_place(rows, parts[SALIENT].lookup(tokens), columns)
        if UP in parts:
            down = parts[DOWN].packed().decode(self.compute_dtype)
            rows = rows + parts[UP].lookup(tokens) @ down
        return rows

    def _rest_of(self, columns: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a graph keeps nothing from one call to the next
            return rest_of(columns, self.shape[-1])
        if self._rest is None or self._rest[0] is not columns:
            self._rest = columns, rest_of(columns, self.shape[-1])
        return self._rest[1]

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        self._rest = None
        super()._load_from_state_dict(*args, **keywords)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ComposedWeight":
        super()._apply(fn, recurse)
        self._rest = None
        self.compute_dtype = self._parts()[BASE].compute_dtype
        return self

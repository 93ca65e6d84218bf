"""A weight of several: a base, and the parts that its scheme adds."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.absent import AbsentWeight
from bitplan.formats import Packed, in_place, kept_of_row, rest_of, widened
from bitplan.packed_weight import PackedWeight
from bitplan.schema import BASE, COLUMNS, DOWN, KEPT, SALIENT, UP, narrowed
from bitplan.weight import AbstractWeight


def hold(packed: Packed, *, compute_dtype: torch.dtype, transposed: bool = False) -> AbstractWeight:
    """The module for a weight, of one part or of several, or of none."""
    if packed.scheme.is_none:
        return AbsentWeight(packed, compute_dtype=compute_dtype)
    kind = ComposedWeight if packed.scheme.is_composed else PackedWeight
    return kind(packed, compute_dtype=compute_dtype, transposed=transposed)


class ComposedWeight(AbstractWeight):
    """A `PackedWeight` for each part (see `bitplan.schema.parts`), with a kernel of its own.

    Of salient columns it holds `columns`, and of those that are left out the `kept` ones, as the
    file does. The columns of the base follow from the first, and the numbers of the others from the
    second: they are worked out once, and take four bytes each beside what the file takes. The bytes
    of a plan are those of the file.
    """

    columns: Tensor | None
    kept: Tensor | None

    def __init__(
        self, packed: Packed, *, compute_dtype: torch.dtype, transposed: bool = False
    ) -> None:
        super().__init__()
        self.scheme, self.shape = packed.scheme, torch.Size(packed.shape)
        self.compute_dtype, self.transposed = compute_dtype, transposed
        for name, part in packed.split().items():
            self.add_module(name, PackedWeight(part, compute_dtype=compute_dtype))
        for name in (COLUMNS, KEPT):
            if name in packed.tensors:
                self.register_buffer(name, packed.tensors[name])
        # By the name of a buffer: it, and the columns that follow from it.
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

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
        shape = tuple(self.shape if expert is None else self.shape[1:])
        which = (self._buffers.get(name) for name in (COLUMNS, KEPT))
        if expert is not None:
            which = (None if all_ is None else all_[expert] for all_ in which)
        return Packed.join(self.scheme, shape, packed, *which)

    def arrange(self, *, lookup: bool = False, kernel: str | None = None) -> None:
        """Lay each part out for the fastest implementation that it has, or for `kernel`."""
        for part in self._parts().values():
            part.arrange(lookup=lookup, kernel=kernel)
        for name in (COLUMNS, KEPT):
            self._following(name)  # now, so that a product changes nothing

    def multiply(
        self, inputs: Float[Tensor, "*tokens in"], expert: int | None = None
    ) -> Float[Tensor, "*tokens out"]:
        """Product with the transposed weight, or an expert's: the sum of those of the parts."""
        self.check(inputs)
        parts, columns = self._parts(), self._buffers.get(COLUMNS)
        if (kept := self._following(KEPT)) is not None:
            inputs = inputs.index_select(-1, kept if expert is None else kept[expert])
        rest = self._following(COLUMNS)
        if columns is None or rest is None:
            output = parts[BASE].multiply(inputs, expert)
        else:
            if expert is not None:
                rest, columns = rest[expert], columns[expert]
            output = parts[BASE].multiply(inputs.index_select(-1, rest), expert)
            output = output + parts[SALIENT].multiply(inputs.index_select(-1, columns), expert)
        if UP in parts:
            output = output + parts[UP].multiply(parts[DOWN].multiply(inputs, expert), expert)
        return output

    def few(self, count: int, dtype: torch.dtype) -> Any:
        """See `AbstractWeight.few`."""
        # Imported here, for compiled loops take half a second to import.
        from bitplan.kernels.native.job import Term

        found = {name: part.few(count, dtype) for name, part in self._parts().items()}
        if None in found.values():
            return None
        kept = self._following(KEPT)
        which = {BASE: self._following(COLUMNS), SALIENT: self._buffers.get(COLUMNS)}
        terms = []
        for name in (BASE, SALIENT, DOWN):
            columns = _among(kept, which.get(name))
            then = found[UP][0].jobs if name == DOWN and UP in found else ()
            terms += [Term((*term.jobs, *then), columns) for term in found.get(name, ())]
        return terms

    def lookup(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Rows of the weight."""
        parts, columns = self._parts(), self._buffers.get(COLUMNS)
        rows = parts[BASE].lookup(tokens)
        if columns is not None:
            rows = in_place(rows, parts[SALIENT].lookup(tokens), columns)
        if UP in parts:
            down = parts[DOWN].packed().decode(self.compute_dtype)
            rows = rows + parts[UP].lookup(tokens) @ down
        kept = self._following(KEPT)
        return rows if kept is None else widened(rows, kept, self.shape[-1])

    def _following(self, name: str) -> Tensor | None:
        """The columns of the base, or of all parts, where they are not all of them."""
        told = self._buffers.get(name)
        if told is None:
            return None
        if torch.compiler.is_compiling():  # a graph keeps nothing from one call to the next
            return self._worked_out(name, told)
        if name not in self._known or self._known[name][0] is not told:
            self._known[name] = told, self._worked_out(name, told)
        return self._known[name][1]

    def _worked_out(self, name: str, told: Tensor) -> Tensor:
        narrow = narrowed(self.scheme, self.shape)[-1]
        if name == COLUMNS:
            return rest_of(told, narrow)
        return kept_of_row(told, self.shape[-1], narrow)

    def _forget(self) -> None:
        """What followed from tensors that are no longer what they were."""
        self._known.clear()
        self.layout = object()

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **keywords)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ComposedWeight":
        super()._apply(fn, recurse)
        self._forget()
        self.compute_dtype = self._parts()[BASE].compute_dtype
        return self


def _among(kept: Tensor | None, some: Tensor | None) -> Tensor | None:
    """The numbers of some of the kept columns among all, int32; None: all of all."""
    if kept is None or some is None:
        return kept if some is None else some.int()
    return kept[some.long()]

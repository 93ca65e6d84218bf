"""Rows of keys or values, packed as they come."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.formats import Packed, encode_rows
from bitplan.schema import Scheme

CHUNK = 256
"""Tokens by which storage grows; up to a plan's context it never exceeds that."""


class PackedRows:
    """Rows of one scheme, a token each; those of the newest tokens lie last.

    `tensors` [batch, capacity, ...] are those of `Packed`, filled up to `length`.
    """

    def __init__(self, scheme: Scheme, context: int) -> None:
        self.scheme, self.context = scheme, context
        self.tensors: dict[str, Tensor] = {}
        self.length = self.width = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, what is not filled yet included."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def append(self, rows: Float[Tensor, "batch tokens width"]) -> None:
        """Round and store the rows of new tokens."""
        self.width = rows.shape[-1]
        start, self.length = self.length, self.length + rows.shape[1]
        if self.tensors and self.has_loops(rows):
            self._make_room(self.tensors)
            _loops().append(self.tensors, start, rows, self.scheme)
            return
        packed = encode_rows(rows, self.scheme).tensors
        self._make_room(packed)
        for name, tensor in packed.items():
            self.tensors[name][:, start : self.length] = tensor

    def read(self, dtype: torch.dtype) -> Float[Tensor, "batch tokens width"]:
        """All rows, as stored."""
        some = next(iter(self.tensors.values()))
        if self.has_loops(some.new_empty(0, dtype=dtype)):
            size = self.length, self.width
            sequences = [
                _loops().read(self._sequence(at), *size, self.scheme, dtype)
                for at in range(len(some))
            ]
            return sequences[0][None] if len(some) == 1 else torch.stack(sequences)
        tensors = {name: tensor[:, : self.length] for name, tensor in self.tensors.items()}
        batch = next(iter(tensors.values())).shape[0]
        shape = (batch, self.length, self.width)
        return Packed(scheme=self.scheme, shape=shape, tensors=tensors).decode(dtype)

    def _sequence(self, at: int) -> dict[str, Tensor]:
        """The tensors of one sequence."""
        return {name: tensor[at] for name, tensor in self.tensors.items()}

    def has_loops(self, like: Tensor) -> bool:
        """Whether compiled loops round and read rows of a dtype, where they are."""
        if not self.scheme.is_integer or torch.compiler.is_compiling():
            return False
        return _loops().unfit(self.scheme, like) is None

    def keep(self, tokens: slice) -> None:
        """Forget all but some of the tokens; storage shrinks to what it needs."""
        kept = {name: t[:, : self.length][:, tokens] for name, t in self.tensors.items()}
        self.tensors = {}
        self.length = next(iter(kept.values())).shape[1]
        self._make_room(kept)
        for name, tensor in kept.items():
            self.tensors[name][:, : self.length] = tensor

    def over_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the sequences that there are."""
        self.tensors = {name: change(tensor) for name, tensor in self.tensors.items()}

    def _make_room(self, like: Mapping[str, Tensor]) -> None:
        capacity = -(-self.length // CHUNK) * CHUNK
        if self.length <= self.context:
            capacity = min(capacity, self.context)
        for name, tensor in like.items():
            old = self.tensors.get(name)
            if old is None or old.shape[1] < self.length:
                grown = tensor.new_zeros(tensor.shape[0], capacity, *tensor.shape[2:])
                if old is not None:
                    grown[:, : old.shape[1]] = old
                self.tensors[name] = grown


def _loops() -> Any:
    """Compiled loops, imported when rows are there: that takes half a second."""
    from bitplan.kernels import cached

    return cached

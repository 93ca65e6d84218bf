"""A model in files that several processes map: of its weights there is one copy, however many look.

One file holds what pickle makes of the model without its tensors, and one file a copy of them, each
tensor where torch would align it. Who writes a weight into a copy has written it for all.
"""

import io
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ALIGNED = 64
"""Bytes that torch aligns tensors to. Arithmetic on others may round in another order."""


class NotShared(Exception):
    """A model that other processes cannot map, and why."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a copy, and what it is."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    is_parameter: bool

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def share(model: nn.Module, skeleton: Path, copies: Sequence[Path]) -> None:
    """Write a model without its tensors into one file, and them, as they are now, into others.

    Raises `NotShared` for a model that cannot be pickled, is made of classes that no other process
    can import, or has tensors that are not plain ones on the CPU, and for a full disk.
    """
    _check(model)
    content = io.BytesIO()
    pickler = _Pickler(content)
    try:
        pickler.dump(model)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise NotShared(f"{type(model).__name__} cannot be sent to a process: {error}.") from error
    pickler.check_apart()
    try:
        skeleton.write_bytes(pickle.dumps((pickler.places, content.getvalue())))
        for path in copies:
            pickler.write(path)
    except OSError as error:
        raise NotShared(
            f"Copies of {bytes_of(model):,} bytes cannot be written to {skeleton.parent}: "
            f"{error.strerror}."
        ) from error


def open_copy(skeleton: Path, copy: Path) -> nn.Module:
    """The model, its parameters mapped from a copy; buffers, which it may change, are its own."""
    places, content = pickle.loads(skeleton.read_bytes())
    mapped = np.memmap(copy, np.uint8, mode="r+")
    return _Unpickler(io.BytesIO(content), places, mapped).load()


def bytes_of(model: nn.Module) -> int:
    """What one copy of its tensors takes."""
    tensors = (*model.parameters(), *model.buffers())
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _check(model: nn.Module) -> None:
    for module in model.modules():
        if type(module).__module__ == "__main__":
            raise NotShared(f"{type(module).__name__} is of a script, which is not imported.")


class _Pickler(pickle.Pickler):
    """Leaves tensors out, and notes where each is to lie; those of the same elements lie once."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=5)
        self.tensors: list[Tensor] = []
        self.places: list[Place] = []
        self._known: dict[tuple[object, ...], int] = {}
        self._end = 0

    def persistent_id(self, obj: object) -> int | None:
        """The number of a tensor; None for all else."""
        if not isinstance(obj, Tensor):
            return None
        if type(obj) not in (Tensor, nn.Parameter) or obj.device.type != "cpu":
            raise NotShared(f"A {type(obj).__name__} on {obj.device} cannot be mapped.")
        if obj.layout is not torch.strided or not obj.is_contiguous():
            raise NotShared("A tensor that is not contiguous cannot be mapped.")
        if obj.data_ptr() % obj.itemsize:
            raise NotShared(
                "A tensor that lies between two addresses of its kind cannot be mapped."
            )
        key = (obj.data_ptr(), obj.dtype, tuple(obj.shape)) if obj.numel() else (id(obj),)
        if key not in self._known:
            self._add(obj)
            self._known[key] = len(self.places) - 1
        return self._known[key]

    def check_apart(self) -> None:
        """Raise `NotShared` where two tensors have some elements in common."""
        ranges = sorted(
            (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
            for tensor in self.tensors
            if tensor.numel()
        )
        if any(end > start for (_, end), (start, _) in itertools.pairwise(ranges)):
            raise NotShared("Tensors that share some of their elements cannot be mapped.")

    def write(self, path: Path) -> None:
        """Write the tensors, each to its place."""
        with path.open("wb") as file:
            for tensor, place in zip(self.tensors, self.places, strict=True):
                file.seek(place.offset)
                file.write(tensor.detach().flatten().view(torch.uint8).numpy().data)
            file.truncate(max(self._end, 1))  # nothing at all cannot be mapped

    def _add(self, tensor: Tensor) -> None:
        # Aligned, or not aligned, as it is here: what is computed is then the same to the last bit.
        offset = -(-self._end // ALIGNED) * ALIGNED + tensor.data_ptr() % ALIGNED
        place = Place(
            offset=offset,
            dtype=tensor.dtype,
            shape=tuple(tensor.shape),
            is_parameter=isinstance(tensor, nn.Parameter),
        )
        self.tensors.append(tensor)
        self.places.append(place)
        self._end = offset + place.nbytes


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, places: list[Place], mapped: np.ndarray) -> None:
        super().__init__(file)
        self.places, self.mapped = places, torch.from_numpy(mapped)
        self._made: dict[int, Tensor] = {}

    def persistent_load(self, pid: int) -> Tensor:
        """The tensor of a number, the same object each time."""
        if pid not in self._made:
            place = self.places[pid]
            flat = self.mapped[place.offset : place.offset + place.nbytes]
            tensor = flat.view(place.dtype).reshape(place.shape)
            is_parameter = place.is_parameter
            made = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor.clone()
            self._made[pid] = made
        return self._made[pid]

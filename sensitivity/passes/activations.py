"""Hidden states and gradients between the blocks of a model, sequence by sequence, on disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitplan.errors import OutputError
from bitplan.files import make_folder, replacing


@dataclass(frozen=True, kw_only=True)
class Activations:
    """One tensor for each boundary between blocks and each sequence: a file each.

    Boundary i is the input of block i; the last is the output of the last block. A file is written
    whole or not at all, so what is there is right.
    """

    folder: Path
    sequences: int

    def path(self, boundary: int, sequence: int) -> Path:
        """Where one tensor lies."""
        return self.folder / str(boundary) / f"{sequence}.safetensors"

    def get(self, boundary: int, sequence: int) -> Tensor:
        """A tensor; OSError or SafetensorError where it is not there."""
        with safe_open(self.path(boundary, sequence), framework="pt") as file:
            # A copy where torch aligns it: a mapped one may be multiplied in another way.
            return file.get_tensor("values").clone()

    def put(self, boundary: int, sequence: int, values: Tensor) -> None:
        """Keep a tensor. Raises `OutputError` when the disk is full."""
        path = self.path(boundary, sequence)
        try:
            with replacing(path) as temporary:
                save_file({"values": values.detach().contiguous()}, temporary)
        except OutputError as error:
            raise OutputError(
                f"{error} The hidden states of {self.sequences} sequences take "
                f"{self.sequences * values.nbytes:,} bytes for each block. What was measured is "
                "kept: the same command goes on from there."
            ) from error

    def missing(self, boundary: int) -> list[int]:
        """The sequences that have none."""
        found = {path.name for path in (self.folder / str(boundary)).glob("*.safetensors")}
        return [i for i in range(self.sequences) if self.path(boundary, i).name not in found]

    def drop(self, boundary: int) -> None:
        """Forget all sequences' tensors at a boundary."""
        shutil.rmtree(self.folder / str(boundary), ignore_errors=True)

    def check_room(self, values: Tensor, boundaries: int) -> None:
        """Raise `OutputError` where the disk has no room for so many boundaries like this one."""
        needed = values.nbytes * self.sequences * boundaries
        free = shutil.disk_usage(make_folder(self.folder)).free
        if needed > free:
            raise OutputError(
                f"Running block by block keeps {needed:,} bytes of hidden states in "
                f"{self.folder}, where {free:,} are free. Free some space, choose another work "
                "folder, or calibrate on fewer or shorter sequences."
            )

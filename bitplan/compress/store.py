"""Compressed weights on disk: rendered once, read by measuring, refinement and apply."""

from pathlib import Path

from bitplan.files import make_folder
from bitplan.footprint import scheme_bytes
from bitplan.formats import Packed
from bitplan.schema import Layer, Scheme, file_name
from bitplan.tensors import load_tensors, save_tensors

RENDERING = 3
"""Raised when a quantizer comes to make other weights of the same: the older ones are not read."""


class Store:
    """One folder for one model, one set of statistics and one quantizer; a file for each weight.

    A damaged file counts as missing and is rendered again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)

    def path(self, layer: Layer, scheme: Scheme) -> Path:
        """Where one compressed weight lies."""
        return self.folder / layer.name / f"{file_name(scheme)}.safetensors"

    def put(self, layer: Layer, packed: Packed) -> None:
        """Keep a compressed weight."""
        save_tensors(self.path(layer, packed.scheme), packed.tensors)

    def get(self, layer: Layer, scheme: Scheme) -> Packed | None:
        """A compressed weight, or None if it has not been rendered."""
        path = self.path(layer, scheme)
        tensors = load_tensors(path)
        if tensors is None:
            return None
        packed = Packed(scheme=scheme, shape=layer.shape, tensors=tensors)
        if packed.nbytes != scheme_bytes(layer.shape, scheme):
            path.unlink(missing_ok=True)
            return None
        return packed

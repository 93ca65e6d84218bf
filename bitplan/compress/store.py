"""Compressed weights on disk: rendered once, read by measuring, refinement and apply."""

from pathlib import Path

from bitplan.compress.bound import Bound, touch
from bitplan.errors import InputError
from bitplan.files import make_folder
from bitplan.footprint import scheme_bytes
from bitplan.formats import Packed
from bitplan.schema import Layer, Scheme, file_name
from bitplan.tensors import load_tensors, save_tensors

RENDERING = 6
"""Raised when a quantizer comes to make other weights of the same: the older ones are not read."""


class Store:
    """One folder for one model, one set of statistics and one quantizer; a file for each weight.

    A damaged file counts as missing and is rendered again. With a bound, any weight may be missing
    a moment after it was put.
    """

    def __init__(self, folder: Path, bound: Bound | None = None) -> None:
        self.folder = make_folder(folder)
        self._bound = bound

    def path(self, layer: Layer, scheme: Scheme) -> Path:
        """Where one compressed weight lies."""
        return self.folder / layer.name / f"{file_name(scheme)}.safetensors"

    def put(self, layer: Layer, packed: Packed) -> None:
        """Keep a compressed weight."""
        if packed.scheme.is_none:
            return
        path = self.path(layer, packed.scheme)
        save_tensors(path, packed.tensors)
        if self._bound is not None and not packed.scheme.is_float:
            self._bound.added(path)

    def get(self, layer: Layer, scheme: Scheme) -> Packed | None:
        """A compressed weight, or None if it has not been rendered."""
        if scheme.is_none:
            return Packed(scheme=scheme, shape=layer.shape, tensors={})
        path = self.path(layer, scheme)
        tensors = load_tensors(path)
        if tensors is None:
            return None
        touch(path)
        packed = Packed(scheme=scheme, shape=layer.shape, tensors=tensors)
        if packed.nbytes != scheme_bytes(layer.shape, scheme):
            path.unlink(missing_ok=True)
            return None
        return packed

    def require(self, layer: Layer, scheme: Scheme) -> Packed:
        """A compressed weight that was there; raises `InputError` where it is lost meanwhile."""
        packed = self.get(layer, scheme)
        if packed is None:
            raise InputError(
                f"The weight of {layer.name} in {scheme} was removed from {self.folder} while it "
                "was in use. Run the same command again: it renders what is missing."
            )
        return packed

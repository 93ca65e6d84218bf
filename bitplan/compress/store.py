"""Compressed weights on disk: rendered once, read by measuring, refinement and apply."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bitplan.files import make_folder, replacing
from bitplan.formats import Packed
from bitplan.schema import Layer, Scheme


class Store:
    """One folder for one model, one set of statistics and one quantizer; a file for each weight.

    A damaged file counts as missing and is rendered again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)

    def path(self, layer: Layer, scheme: Scheme) -> Path:
        """Where one compressed weight lies."""
        return self.folder / layer.name / f"{scheme}.safetensors"

    def missing(self, layer: Layer, schemes: Sequence[Scheme]) -> list[Scheme]:
        """Those schemes in which the layer has not been rendered."""
        return [scheme for scheme in schemes if not self.path(layer, scheme).is_file()]

    def put(self, layer: Layer, packed: Packed) -> None:
        """Keep a compressed weight."""
        path = self.path(layer, packed.scheme)
        make_folder(path.parent)
        with replacing(path) as temporary:
            save_file(packed.tensors, temporary)

    def get(self, layer: Layer, scheme: Scheme) -> Packed | None:
        """A compressed weight, or None if it has not been rendered."""
        path = self.path(layer, scheme)
        if not path.is_file():
            return None
        try:
            tensors = load_file(path)
        except SafetensorError:
            path.unlink()
            return None
        return Packed(scheme=scheme, shape=layer.shape, tensors=tensors)

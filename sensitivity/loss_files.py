"""Losses by sequence on disk, of what is measured sequence by sequence for all layers at once."""

import json
from pathlib import Path

from bitplan.errors import InputError
from bitplan.files import make_folder, read_text, write_text
from bitplan.schema import Layer, Scheme


class LossFiles:
    """Losses by sequence, in a file for each scheme: what is in it is not measured again."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self.known: dict[Scheme, dict[str, list[float]]] = {}

    def of(self, layer: Layer, scheme: Scheme) -> list[float]:
        """Those there are, of the first sequences."""
        if scheme not in self.known:
            self.known[scheme] = _read(self._path(scheme))
        return self.known[scheme].setdefault(layer.name, [])

    def add(self, layer: Layer, scheme: Scheme, start: int, losses: list[float]) -> None:
        """Those of the sequences from `start` on."""
        self.of(layer, scheme)[start:] = losses

    def write(self) -> None:
        """Write all files."""
        for scheme, losses in self.known.items():
            write_text(self._path(scheme), json.dumps(losses))

    def _path(self, scheme: Scheme) -> Path:
        return self.folder / f"{scheme}.json"


def _read(path: Path) -> dict[str, list[float]]:
    try:
        content = json.loads(read_text(path)) if path.is_file() else {}
        return {str(name): [float(loss) for loss in losses] for name, losses in content.items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError, InputError):
        return {}  # damaged: found again

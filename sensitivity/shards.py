"""Costs on disk: a file for each layer and scheme, with its digest, written whole or not at all."""

import hashlib
import json
import logging
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from bitplan.errors import InputError, ModelError
from bitplan.files import read_text, write_text
from bitplan.schema import Layer, Scheme, file_name
from bitplan.sensitivity.losses import Losses

log = logging.getLogger(__name__)

FORMAT = 3
"""Of what losses by sequence say: those of an earlier one are measured again."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The losses that one estimator found, in a folder of one model, calibration and quantizer.

    Two processes may write the same shard: they write the same bytes. A damaged shard counts as
    missing, and is measured again; so does one that was written for another place.
    """

    folder: Path

    def path(self, layer: Layer, scheme: Scheme) -> Path:
        """Where one shard lies."""
        return self.folder / layer.name / f"{file_name(scheme)}.json"

    def get(self, layer: Layer, scheme: Scheme) -> Losses | None:
        """The losses of a layer in a scheme, or None if they are not known."""
        path = self.path(layer, scheme)
        if not path.is_file():
            return None
        try:
            content = json.loads(read_text(path))
            is_whole = content.pop("digest") == _digest(content)
            if is_whole and content.get("format") != FORMAT:
                return None
            if is_whole and (content["layer"], content["scheme"]) == (layer.name, str(scheme)):
                return Losses(
                    loss=content["loss"],
                    by_sequence=np.array(content["by_sequence"], dtype=np.float64),
                    is_guess=content["is_guess"],
                )
        except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        log.warning("%s is damaged: it is measured again.", path)
        return None

    def put(self, layer: Layer, scheme: Scheme, losses: Losses) -> None:
        """Keep the losses of a layer in a scheme. Raises `ModelError` where they are not finite."""
        if not (isfinite(losses.loss) and np.isfinite(losses.by_sequence).all()):
            raise ModelError(
                f"With {layer.name} in {scheme} the loss is not a finite number: the model's dtype "
                "cannot hold what it computes. Load it in a wider one (bfloat16 in place of "
                f"float16, or float32), or leave {scheme} out of the schemes."
            )
        content = {
            "format": FORMAT,
            "layer": layer.name,
            "scheme": str(scheme),
            "loss": losses.loss,
            "by_sequence": losses.by_sequence.tolist(),
            "is_guess": losses.is_guess,
        }
        text = json.dumps(content | {"digest": _digest(content)})
        write_text(self.path(layer, scheme), text + "\n")


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

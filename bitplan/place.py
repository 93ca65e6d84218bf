"""Where a model or a text comes from, told apart and checked beforehand.

Without torch, whose import takes seconds: a path that is not there is refused before.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bitplan.errors import CalibrationError, ModelError


@dataclass(frozen=True, kw_only=True)
class Place:
    """What transformers is asked for: a folder or hub id, and the GGUF file in the folder."""

    source: str
    location: str
    gguf_file: str | None = None

    @property
    def name(self) -> str:
        """The model's name, for people."""
        if self.gguf_file is not None:
            return Path(self.gguf_file).stem
        is_folder = Path(self.location).is_dir()
        return Path(self.location).resolve().name if is_folder else self.location

    @property
    def keywords(self) -> dict[str, Any]:
        """Arguments for `from_pretrained` of configs, tokenizers and models."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def locate(source: str | Path) -> Place:
    """Tell a folder, a GGUF file and a hub id apart. Raises `ModelError` for anything else."""
    with _readable():
        return _located(source)


def _located(source: str | Path) -> Place:
    text, path = str(source), Path(source).expanduser()
    if text and path.is_dir():
        return Place(source=text, location=str(path))
    if path.is_file():
        if path.suffix == ".gguf" or _starts_with(path, b"GGUF"):
            return Place(source=text, location=str(path.parent), gguf_file=path.name)
        raise ModelError(
            f"{text} is a file, but no GGUF file. Give a .gguf file, or the folder that holds "
            "config.json and the safetensors files."
        )
    if isinstance(source, Path) or _looks_like_a_path(text):
        raise ModelError(
            f"There is no folder or file {text!r}. Check the path; a model on the hub is named "
            "owner/name."
        )
    return Place(source=text, location=text)


def check_source(source: str) -> None:
    """Raise `ModelError` for what can be seen to be no model before anything is loaded."""
    check_folder(locate(source))


def check_folder(place: Place) -> None:
    """Raise `ModelError` for a folder that holds no model: no config, pickles, truncated files.

    Or one that may not be read.
    """
    with _readable():
        _check_folder(place)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ModelError(
            f"{error.filename} may not be read by the user that runs this. Give that user the "
            "right to, or copy the model."
        ) from error


def _check_folder(place: Place) -> None:
    folder = Path(place.location)
    if place.gguf_file is not None or not folder.is_dir():
        return
    weights = sorted(folder.glob("*.safetensors"))
    config = folder / "config.json"
    if config.is_file():
        config.open("rb").close()
    else:
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        advice = f"Name the GGUF file itself: {folder / ggufs[0]}." if ggufs else _SAVE_AGAIN
        raise ModelError(f"The folder {place.source} has no config.json. {advice}")
    pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in _PICKLES]
    if not weights and pickles:
        raise ModelError(
            f"The folder {place.source} holds pickled weights only ({pickles[0]}). Unpickling can "
            "run any code, so bitplan reads safetensors: convert them where you trust them, with "
            "from_pretrained and save_pretrained of transformers."
        )
    if not weights:
        raise ModelError(f"The folder {place.source} has no *.safetensors file. {_SAVE_AGAIN}")
    for file in weights:
        _check_safetensors(file)
    _check_shards(folder)


def split_weight(text: str) -> tuple[str, float | None]:
    """Path and weight of `PATH` or `PATH:WEIGHT`; a path that exists as it is written has none."""
    head, colon, tail = text.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        return text, None
    return (head, weight) if colon and head and not _exists(text) else (text, None)


def check_weight(name: str, weight: object) -> None:
    """Raise `CalibrationError` for a weight that is not a number above zero."""
    if not (isinstance(weight, int | float) and 0 < weight < math.inf):
        raise CalibrationError(
            f"The weight of {name} is {weight!r}; it must be a number above zero."
        )


def check_text(path: str | Path) -> None:
    """Raise `CalibrationError` where there is no file or folder to read calibration text from."""
    if path == "" or not _exists(path):
        raise CalibrationError(
            f"There is no calibration file {str(path)!r}. Check the path; to give text itself, put "
            "it into a list."
        )


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _check_safetensors(file: Path) -> None:
    file.open("rb").close()  # safetensors calls a file missing that may not be read
    try:
        with safe_open(file, framework="numpy"):  # "pt" imports torch
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is truncated or damaged ({error}). Copy or download it again."
        ) from error


def _check_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged ({error}). Copy or download it again.") from error
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        raise ModelError(
            f"The folder {folder} lacks {len(missing)} of the {len(shards)} files that its index "
            f"names; the first is {missing[0]}. Copy or download them."
        )


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error


def _looks_like_a_path(text: str) -> bool:
    if not _HUB_ID.fullmatch(text) or Path(text).suffix in {".gguf", ".safetensors", *_PICKLES}:
        return True
    # "models/lama" is a slip of the keyboard where there is a folder `models`.
    return "/" in text and Path(text).parent.is_dir()


_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SAVE_AGAIN = "Save the model into it with save_pretrained of transformers."

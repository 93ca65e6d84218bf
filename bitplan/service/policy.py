"""Which files and hub models a job may name: what lies in allowed folders, all links followed.

Server and workers both ask: links may change between the two.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitplan.errors import ModelError
from bitplan.service.parameters import Parameters
from bitplan.service.settings import ServiceSettings

DEMO = "demo"
"""The name of the demo's model and of its text."""

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
MOST_FILES = 10_000
"""In a model's folder; one with more is refused."""

DEPTH = 3
"""How deep below an allowed folder models are looked for, for the list of them."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


class NotAllowed(ModelError):
    """A path or hub id outside of what the server allows."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model in an allowed folder."""

    name: str
    path: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be named."""

    model_folders: Sequence[Path] = ()
    text_folders: Sequence[Path] = ()
    organisations: Sequence[str] = ()
    demo: bool = False

    @classmethod
    def of(cls, settings: ServiceSettings) -> "Policy":
        """As the service is set."""
        return cls(
            model_folders=settings.model_folders,
            text_folders=settings.text_folders,
            organisations=settings.organisations,
            demo=settings.demo,
        )

    def model(self, name: str) -> str:
        """What to load for a model's name: a real path, a hub id, or "demo".

        Raises `NotAllowed`. Whether a path outside of the allowed folders exists is not told.
        """
        if name == DEMO and self.demo:
            return name
        if _is_hub_id(name):
            organisation = name.partition("/")[0]
            if organisation in self.organisations:
                return name
            if not self._may_be_a_path(name):
                raise NotAllowed(
                    f"Models of {organisation!r} are not allowed here. "
                    f"{_listed('hub organisations', self.organisations)}"
                )
        path = _inside(name, self.model_folders, "model")
        with _readable("model"):
            self._check_model(path)
        return str(path)

    def _check_model(self, path: Path) -> None:
        if path.is_dir():
            _check_folder(path, self.model_folders)
        elif path.suffix.lower() in PICKLES:
            raise NotAllowed(
                "Pickled weights can run any code, so they are not read. Convert them to "
                "safetensors where you trust them, and name their folder."
            )
        elif path.suffix.lower() != ".gguf":
            raise NotAllowed("A model is a folder with safetensors or a .gguf file. Name one.")
        elif path.is_file():
            path.open("rb").close()

    def text(self, name: str) -> str:
        """The real path of a calibration file or folder. Raises `NotAllowed`."""
        if name == DEMO and self.demo:
            return name
        path = _inside(name, self.text_folders, "text")
        with _readable("text"):
            if path.is_dir():
                _check_links(path, self.text_folders, "text")
            elif path.is_file():
                path.open("rb").close()
        return str(path)

    def named(self, parameters: Parameters) -> Parameters:
        """The parameters with what is to be loaded in place of what was named.

        What was named so once is allowed, and stays as it is, for as long as nothing has changed.
        Raises `NotAllowed`.
        """
        changes: dict[str, object] = {"model": self.model(parameters.model)}
        text = getattr(parameters, "calibration", None)
        if text is not None:
            changes["calibration"] = self.text(text)
        return parameters.model_copy(update=changes)

    def models(self) -> list[Found]:
        """The models that lie in the allowed folders, by name."""
        found: dict[str, Found] = {}
        for folder in self.model_folders:
            for path, size in _models_in(Path(os.path.realpath(folder)), DEPTH):
                found[str(path)] = Found(name=path.name, path=str(path), bytes=size)
        return sorted(found.values(), key=lambda one: (one.name.lower(), one.path))

    def _may_be_a_path(self, name: str) -> bool:
        return any(os.path.exists(Path(folder) / name) for folder in self.model_folders)


def _is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name and not name.endswith(".gguf")


def _inside(name: str, folders: Sequence[Path], noun: str) -> Path:
    """The real path of a name, if that is in a folder; a relative one is of each folder in turn."""
    refused = NotAllowed(
        f"There is no such {noun} in the folders that the server allows. "
        f"{_listed('folders', [str(folder) for folder in folders])}"
    )
    if "\0" in name or not name.strip() or ".." in Path(name).parts or name.startswith("~"):
        raise refused
    for folder in folders:
        root = Path(os.path.realpath(folder))
        try:
            path = Path(os.path.realpath(root / name, strict=True))
        except (OSError, ValueError, UnicodeError):  # no such file; too long; half a surrogate pair
            continue
        if path.is_relative_to(root):
            return path
    raise refused


@contextlib.contextmanager
def _readable(noun: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise NotAllowed(
            f"The service may not read {Path(error.filename).name} of that {noun}: whoever runs it "
            "can give its user the right to."
        ) from error


def _check_folder(folder: Path, folders: Sequence[Path]) -> None:
    names = os.listdir(folder)
    if "config.json" not in names:
        raise NotAllowed("The folder has no config.json, so it is no model. Name a model's folder.")
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights and any(Path(name).suffix in PICKLES for name in names):
        raise NotAllowed(
            "The folder has pickled weights only, which can run any code. Convert them to "
            "safetensors where you trust them."
        )
    _check_links(folder, folders, "model")
    for name in ("config.json", *weights):
        (folder / name).open("rb").close()


def _check_links(folder: Path, folders: Sequence[Path], noun: str) -> None:
    """Raise for a link out of all allowed folders, anything but files and folders, or too many."""
    roots = [Path(os.path.realpath(root)) for root in folders]
    count = 0
    for parent, below, files in os.walk(folder, onerror=_raise):
        for name in (*below, *files):
            count += 1
            path = Path(parent, name)
            real = Path(os.path.realpath(path))
            if path.is_symlink() and not any(real.is_relative_to(root) for root in roots):
                raise NotAllowed(
                    f"{name} in the {noun}'s folder is a link out of the allowed folders. Put the "
                    "file itself there."
                )
            if not (real.is_dir() or real.is_file()) and real.exists():
                raise NotAllowed(f"{name} in the {noun}'s folder is not a file. Remove it.")
        if count > MOST_FILES:
            raise NotAllowed(f"The {noun}'s folder has more than {MOST_FILES:,} files.")


def _raise(error: OSError) -> None:
    if isinstance(error, PermissionError):  # a folder that is gone meanwhile has no links
        raise error


def _models_in(folder: Path, depth: int) -> Iterator[tuple[Path, int]]:
    """Models in a folder and the bytes of their weights. Links are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    files = {entry.name: _size(entry) for entry in entries if not entry.is_dir()}
    for name, size in files.items():
        if name.endswith(".gguf"):
            yield folder / name, size
    weights = [size for name, size in files.items() if name.endswith(".safetensors")]
    if weights and "config.json" in files:
        yield folder, sum(weights)
    elif depth:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _models_in(folder / entry.name, depth - 1)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _listed(noun: str, names: Sequence[str]) -> str:
    if not names:
        return f"No {noun} are allowed: whoever runs the server can name some."
    return f"Allowed {noun}: {', '.join(names)}."

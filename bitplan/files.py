"""Files written whole or not at all: to a temporary place beside the target, then renamed."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from bitplan.errors import InputError, OutputError


def make_folder(path: str | Path) -> Path:
    """Make a folder and its parents; raises `OutputError` where that is not possible."""
    path = Path(path)
    try:
        for part in (path, *path.parents):
            if part.is_file():
                raise OutputError(f"Cannot make the folder {path}: {part} is a file. Name another.")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {path}: {error.strerror}. {_ADVICE}") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"The folder {path} is not writable. {_ADVICE}")
    return path


def check_writable(*paths: str | Path) -> None:
    """Raise `OutputError` now for files that could not be written later; makes their folders."""
    for path in map(Path, paths):
        make_folder(path.parent)
        if path.is_dir():
            raise OutputError(f"{path} is a folder, but a file is to be written. Name a file.")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the name of `path` when the block succeeds.

    It is in a folder of this process, where whoever writes may have temporary files of his own, as
    safetensors has. What killed processes of this machine left of the same file is removed. Raises
    `OutputError` when the disk is full or the place is not writable; `path` is then as it was.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        make_folder(path.parent)
        # By name: a glob takes milliseconds where there are many files.
        start, names = f".{path.name}.", os.listdir(path.parent)
        own = (name for name in names if name.startswith(start) and name.endswith(".tmp"))
        _remove_dead(path.parent / name for name in own)
        temporary.mkdir(exist_ok=True)
        yield temporary / path.name
        (temporary / path.name).replace(path)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"Cannot write {path}: {reason}. {_ADVICE}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """Beside a path; what is there is removed some day, should this process not do it itself."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")


def remove_stale(folder: Path) -> None:
    """Remove what processes of this machine that live no more were writing anywhere in a folder."""
    # A walk, unlike a glob, does not mind folders that other processes remove meanwhile.
    for parent, folders, files in os.walk(folder):
        names = (name for name in (*folders, *files) if re.fullmatch(r"\..*\.tmp", name))
        _remove_dead(Path(parent, name) for name in names)


def _remove_dead(paths: Iterable[Path]) -> None:
    for path in paths:
        *_, host, process, _ = path.name.rsplit(".", 3)
        if host == _HOST and process.isdecimal() and not _is_alive(int(process)):
            # Another process may do the same.
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_readable(*paths: str | Path) -> None:
    """Raise `InputError` now for files and folders that could not be read later."""
    for path in paths:
        try:
            Path(path).stat()
        except (OSError, ValueError) as error:  # ValueError: a path with a null character
            raise _unreadable(path, error) from error


def read_text(path: str | Path) -> str:
    """Read UTF-8 text; raises `InputError` where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}). Convert it first.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(f"Cannot read {path}: {reason}. Check the path.")


_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
"""Of the name of a temporary file: several machines may share a folder."""

_ADVICE = "Free some space or choose a folder that you may write to."


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

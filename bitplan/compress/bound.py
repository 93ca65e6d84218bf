"""How much disk the compressed weights of a work folder may take: the least recently used go."""

import contextlib
import os
import time
from pathlib import Path

from bitplan.footprint import FLOAT_OF_DTYPE
from bitplan.schema import Scheme, file_name

PATTERN = "*/weights-*/*/*.safetensors"
"""Compressed weights within a work folder: a model, a store of it, a layer, a scheme."""

SHARE = 0.9
"""Of the limit, what is left when weights had to go, so that they need not go one by one."""

_ORIGINALS = {f"{file_name(Scheme.parse(name))}.safetensors" for name in FLOAT_OF_DTYPE.values()}
"""Of a model whose weights are swapped out: they are nowhere else, so they stay."""


class Bound:
    """A limit for all compressed weights in a work folder, of whatever model.

    Several processes may keep to it, each going by what it wrote itself since it last looked. What
    is removed is rendered again when it is asked for. Original weights are not counted.
    """

    def __init__(self, workdir: Path, limit_bytes: int) -> None:
        self.workdir, self.limit_bytes = workdir, limit_bytes
        self._room = 0  # bytes that may be written before the folder is looked at again

    def added(self, path: Path) -> None:
        """Say that a file was written; what has to go for it goes now."""
        with contextlib.suppress(FileNotFoundError):  # another process has removed it already
            self._room -= path.stat().st_size
        if self._room < 0:
            self._room = self.limit_bytes - self._evict()

    def _evict(self) -> int:
        """Remove what was used longest ago until there is room; the bytes that are left."""
        found = sorted(_files(self.workdir))
        held = sum(size for _, size, _ in found)
        if held <= self.limit_bytes:
            return held
        for _, size, path in found:
            with contextlib.suppress(OSError):
                path.unlink()
            held -= size
            if held <= SHARE * self.limit_bytes:
                break
        return held


def touch(path: Path) -> None:
    """Note that a file is used now: its time of access, whether or not the disk keeps that."""
    # The time of change stays: by it a process knows the files that it has checked.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _files(workdir: Path) -> list[tuple[int, int, Path]]:
    """When each was used, its bytes, and where it is."""
    found = []
    for path in workdir.glob(PATTERN):
        if path.name not in _ORIGINALS:
            with contextlib.suppress(OSError):  # another process may have removed it
                stat = path.stat()
                found.append((stat.st_atime_ns, stat.st_size, path))
    return found

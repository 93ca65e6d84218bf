"""Tensors on disk, with a digest of their bytes: what a disk or a copy damaged is not read."""

import contextlib
import hashlib
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitplan.files import replacing

log = logging.getLogger(__name__)

_sound: set[tuple[str, int, int, int]] = set()
"""Files that this process has checked, as they were: path, inode, time in nanoseconds, size."""


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"digest": digest_of(tensors)})


def load_tensors(path: Path) -> dict[str, Tensor] | None:
    """What `save_tensors` wrote, mapped from its file; None where that is missing or damaged.

    The digest is checked when a process first meets a file. A damaged file is told of in the log,
    and removed so that it is made again.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("digest")
    except (SafetensorError, OSError) as error:
        return _damaged(path, str(error), inode=found.st_ino)
    known = str(path), found.st_ino, found.st_mtime_ns, found.st_size
    if known not in _sound:
        if digest != digest_of(tensors):
            return _damaged(path, "its bytes are not those of its digest", inode=found.st_ino)
        _sound.add(known)
    return tensors


def digest_of(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, reason: str, *, inode: int) -> None:
    log.warning("%s is damaged (%s): it is made again.", path, reason)
    with contextlib.suppress(FileNotFoundError):
        # Another process may have made it again by now.
        if path.stat().st_ino == inode:
            path.unlink()

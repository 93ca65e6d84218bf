"""Memory: how much the machine has, and giving back what can be read again from a file."""

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

SHARE_AT_ONCE = 0.25
"""Of the memory, for what is judged together: the errors of several layers, or changes of them."""


def total_memory_bytes() -> int:
    """Memory of the machine, or of the control group that this process is confined to."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _GROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(path.read_text()))
    return min(limits)


def room_bytes() -> float:
    """What things that are judged together may take."""
    return SHARE_AT_ONCE * total_memory_bytes()


def release(tensors: Iterable[Tensor]) -> None:
    """Give back the resident pages of tensors that are mapped from files; they are read again.

    A tensor that was written to since it was mapped, or that is in no file, stays as it is. Does
    nothing on systems other than Linux, where /proc/self/pagemap tells the two apart.
    """
    madvise = _madvise()
    if madvise is None:
        return
    with contextlib.suppress(OSError), Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        for tensor in tensors:
            # Pages that the tensor shares with others at its ends are theirs as well: they stay.
            first = -(-tensor.data_ptr() // mmap.PAGESIZE)
            count = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE - first
            if (
                tensor.device.type == "cpu"
                and count > 0
                and _is_clean(pages.fileno(), first, count)
            ):
                madvise(first * mmap.PAGESIZE, count * mmap.PAGESIZE, _DONTNEED)


def _is_clean(pages: int, first: int, count: int) -> bool:
    """Whether a range has resident pages, and the file or shared memory behind holds them all."""
    entries = np.frombuffer(os.pread(pages, count * 8, first * 8), dtype=np.uint64)
    used = entries[(entries & (_PRESENT | _SWAPPED)) != 0]
    is_backed = (used & (_PRESENT | _OF_FILE)) == (_PRESENT | _OF_FILE)
    return len(entries) == count and len(used) > 0 and bool(is_backed.all())


@functools.cache
def _madvise() -> Any:
    function = getattr(ctypes.CDLL(None), "madvise", None) if os.name == "posix" else None
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_DONTNEED = 4
# Bits of an entry of /proc/self/pagemap.
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))

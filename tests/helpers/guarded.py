"""Memory that ends where a page begins that may not be read: who reads too far dies."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

PAGE = 4096

only_on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="mmap's numbers are Linux's"
)


def guarded(tensor: Tensor) -> Tensor:
    """A copy whose last byte is the last that may be read. It is never given back."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    pages = -(-tensor.nbytes // PAGE)
    start = libc.mmap(None, (pages + 1) * PAGE, 3, 0x22, -1, 0)
    end = start + pages * PAGE
    assert libc.mprotect(end, PAGE, 0) == 0
    memory = (ctypes.c_uint8 * tensor.nbytes).from_address(end - tensor.nbytes)
    copy = torch.frombuffer(memory, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


def said_apart(code: str) -> str:
    """What code prints in a process of its own, which may die."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

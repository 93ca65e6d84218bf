"""Functions compiled on first use, and kept on disk for the next process."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc, njit

STAMP = zlib.crc32(
    b"".join(
        path.read_bytes()
        for folder in ("native", "decoder")
        for path in sorted((Path(__file__).parents[1] / folder).glob("*.py"))
    )
)
"""Of the sources of compiled loops. numba knows a compiled function by its own file alone, so each
function refers to this: one that was kept before another file changed is compiled again."""


_ALONE: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part: Any = njit(**_ALONE)
"""Compile what compiled functions alone call."""


def compiled(**options: Any) -> Callable[[Callable[[Any], None]], Any]:
    """Compile a function of one int64, the address of its arguments."""

    def compile_(function: Callable[[Any], None]) -> Any:
        settings = {"error_model": "numpy", **options}
        try:
            return cfunc("void(int64)", cache=True, **settings)(function)
        except RuntimeError:  # neither beside the source nor in the user's cache can it be kept
            return cfunc("void(int64)", **settings)(function)

    return compile_

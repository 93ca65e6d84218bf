"""The processor that numba compiles for, which need not be the machine's own."""

from functools import cache
from typing import Any

from numba.core.registry import cpu_target


@cache
def processor() -> tuple[str, frozenset[str]]:
    """Its name, as LLVM has it, and what it can do: `+avx2` and the like."""
    context: Any = cpu_target.target_context
    _, name, features = context.codegen().magic_tuple()
    return name, frozenset(features.split(","))

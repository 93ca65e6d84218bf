"""Codes of weights that are kept, spread over their columns in registers: see `sparse_layout`."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl

from bitplan.kernels.gpu.spread_blocks import spread_blocks
from bitplan.kernels.gpu.spread_stream import spread_stream


@triton.jit
def spread(words, tile, panel, COLUMN: tl.constexpr, CELLS: tl.constexpr, SPEC: tl.constexpr):
    """Eight words [rows, 8] of codes at every eighth bit, and one that says which are kept.

    `words` are those that are stored of a panel, which is one of a section that begins at `COLUMN`.
    """
    if SPEC.kept.kind == "bits":
        return spread_stream(words[0], tile, panel, COLUMN, CELLS, SPEC)
    else:
        return spread_blocks(words, tile, panel, COLUMN, CELLS, SPEC)

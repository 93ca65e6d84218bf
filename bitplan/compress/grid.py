"""The scale and offset of a group: where its integer grid lies.

Everything is column-major here, [in, rows]: a column of the weight is then contiguous, and the
rows of several schemes are stacked so that one pass renders them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.stored import AS_BFLOAT16, AbstractStored
from bitplan.formats import Packed
from bitplan.schema import Scheme

SHRINKS = tuple(1 - 0.05 * step for step in range(14))
"""Shares of a group's full range that the search tries."""

REFITS = 3
"""Least-squares refits of scale and offset to the codes of the best range."""

LANES = 64
"""Stacked rows come in multiples of this. Sums and products over the columns of narrower tensors
take other paths, of other rounding: a scheme would render otherwise alone than beside others."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The codes of each stacked row: -half to half - 1, with an offset or without."""

    half: Float[Tensor, "rows"]
    symmetric: Tensor  # bool [rows]
    stored: AbstractStored = AS_BFLOAT16

    @classmethod
    def of(cls, schemes: Sequence[Scheme], work: Float[Tensor, "in rows"]) -> "Levels":
        """Levels of what `stacked` laid side by side."""
        rows = work.shape[1] // len(schemes)
        half = torch.tensor([2.0 ** (s.bits - 1) for s in schemes], device=work.device)
        symmetric = torch.tensor([s.symmetric for s in schemes], device=work.device)
        return cls(half=half.repeat_interleave(rows), symmetric=symmetric.repeat_interleave(rows))

    def quantize(self, weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Nearest centred codes of `weight` [..., rows]."""
        codes = weight.sub(offset).div_(scale).round_()
        return torch.minimum(torch.maximum(codes, -self.half, out=codes), self.half - 1, out=codes)


def full_range(weight: Float[Tensor, "in rows"], levels: Levels) -> tuple[Tensor, Tensor]:
    """Scale and offset [rows] of the grid from minimum to maximum (rounded to stored precision)."""
    return _range(weight, levels, 1.0)


def search_range(
    weight: Float[Tensor, "in rows"], importance: Float[Tensor, "in _"], levels: Levels
) -> tuple[Tensor, Tensor]:
    """Scale and offset [rows] that minimise the squared error weighted by `importance`.

    That is [in, 1], or [in, rows] where rows differ.

    The range is shrunk step by step; the best is then refitted to its own codes by weighted least
    squares, for as long as the error falls.
    """
    scale, offset = full_range(weight, levels)
    best = _error(weight, importance, levels, scale, offset)
    for shrink in SHRINKS[1:]:
        candidate = _range(weight, levels, shrink)
        best, scale, offset = _keep_better(
            weight, importance, levels, (best, scale, offset), candidate
        )
    for _ in range(REFITS):
        candidate = _refit(weight, importance, levels, scale, offset)
        best, scale, offset = _keep_better(
            weight, importance, levels, (best, scale, offset), candidate
        )
    return scale, offset


def _range(weight: Tensor, levels: Levels, shrink: float) -> tuple[Tensor, Tensor]:
    low, high = weight.amin(0), weight.amax(0)
    reach = torch.maximum(-low, high)
    low, high = (
        torch.where(levels.symmetric, -reach, low),
        torch.where(levels.symmetric, reach, high),
    )
    scale = (high - low) * (shrink / (2 * levels.half - 1))
    middle = (high + low) / 2
    offset = torch.where(levels.symmetric, 0.0, middle + scale / 2)
    # Far from zero an offset is stored more coarsely than a narrow group needs: what its rounding
    # moves the grid by, beyond half a step, the grid is widened by.
    moved = (levels.stored.offset(offset) - offset).abs()
    scale = scale + (moved - scale / 2).clamp_min(0) / (levels.half - 0.5)
    return levels.stored.positive_scale(scale), levels.stored.offset(offset)


def _error(
    weight: Tensor, importance: Tensor, levels: Levels, scale: Tensor, offset: Tensor
) -> Tensor:
    codes = levels.quantize(weight, scale, offset)
    return codes.mul_(scale).add_(offset).sub_(weight).square_().mul_(importance).sum(0)


def _keep_better(
    weight: Tensor,
    importance: Tensor,
    levels: Levels,
    best: tuple[Tensor, Tensor, Tensor],
    candidate: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    scale, offset = candidate
    error = _error(weight, importance, levels, scale, offset)
    better = error < best[0]
    return (
        torch.where(better, error, best[0]),
        torch.where(better, scale, best[1]),
        torch.where(better, offset, best[2]),
    )


def _refit(
    weight: Tensor, importance: Tensor, levels: Levels, scale: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    codes = levels.quantize(weight, scale, offset)
    total = importance.sum(0)
    code_mean = torch.where(levels.symmetric, 0.0, (codes * importance).sum(0) / total)
    weight_mean = torch.where(levels.symmetric, 0.0, (weight * importance).sum(0) / total)
    centred = (codes - code_mean) * importance
    variance = (centred * (codes - code_mean)).sum(0)
    slope = (centred * (weight - weight_mean)).sum(0) / variance
    slope = torch.where((variance > 0) & (slope > 0), slope, scale)
    return levels.stored.positive_scale(slope), levels.stored.offset(
        weight_mean - slope * code_mean
    )


def stacked(weight: Float[Tensor, "out in"], schemes: Sequence[Scheme]) -> Tensor:
    """A copy of the weight for every scheme, side by side: float32 [in, rows].

    Each copy's rows are filled up with zeros to a multiple of `LANES`.
    """
    rows = torch.nn.functional.pad(weight.float(), (0, 0, 0, -len(weight) % LANES))
    columns = rows.t().clone(memory_format=torch.contiguous_format)
    return columns if len(schemes) == 1 else columns.repeat(1, len(schemes))


def unstacked(
    codes: Tensor,
    grids: Sequence[tuple[Tensor, Tensor]],
    schemes: Sequence[Scheme],
    rows: int,
    steps: dict[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> list[Packed]:
    """The packed weight [rows, in] of every scheme: what `stacked` laid side by side."""
    stride = codes.shape[1] // len(schemes)
    scale, offset = (torch.stack(parts, dim=1) for parts in zip(*grids, strict=True))
    return [
        Packed.encode(
            scheme,
            codes[:, part].t(),
            scale[part],
            offset[part],
            steps=None if steps is None else {name: some[part] for name, some in steps.items()},
            mask=None if mask is None else mask[:, part].t(),
        )
        for scheme, part in (
            (scheme, slice(i * stride, i * stride + rows)) for i, scheme in enumerate(schemes)
        )
    ]

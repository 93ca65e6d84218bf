"""Integer schemes of one group size, side by side."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.grid import Levels, full_range, search_range, stacked, unstacked
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.refit import refit_range
from bitplan.compress.steps import Steps, steps_of, stored_in
from bitplan.formats import Packed
from bitplan.schema import Scheme


class IntegerPlane(AbstractPlane):
    """A copy of the weight for every scheme, all of one sparsity; a grid is a scale and an offset.

    Of all schemes the scales are codes or of none: the steps of each copy are of its own scales.
    """

    def __init__(self, weight: Float[Tensor, "out in"], schemes: Sequence[Scheme]) -> None:
        self.schemes, self.rows = schemes, len(weight)
        self.work = stacked(weight, schemes)
        self.group = schemes[0].group_size or weight.shape[1]
        self.sparsity = schemes[0].sparsity
        self.levels = Levels.of(schemes, self.work)
        self.steps: Steps | None = None
        if schemes[0].double:
            assert all(scheme.double for scheme in schemes)
            self.steps = steps_of(self.full, weight.shape[1], self.group)

    def full(self, group: slice) -> Grid:
        """From minimum to maximum."""
        return full_range(self.weight(group), self._levels(group))

    def search(self, group: slice, importance: Tensor) -> Grid:
        """A narrower range, refitted to its codes."""
        importance = self.matters(group, importance)
        return search_range(self.weight(group), importance, self._levels(group))

    def refit(
        self, group: slice, grid: Grid, values: Tensor, slope: Tensor, matrix: Tensor
    ) -> Grid:
        """Another scale and offset."""
        scale, offset = grid
        levels = self._levels(group)
        kept = None if self.mask is None else self.mask[group].float()
        return refit_range(
            scale, offset, values, slope, matrix, levels.stored, levels.symmetric, kept
        )

    def toward(self, group: slice, grid: Grid, values: Tensor, target: Tensor) -> Grid:
        """Another offset; of a symmetric row another scale."""
        scale, offset = grid
        levels, symmetric = self._levels(group), self.levels.symmetric
        kept = torch.ones_like(values) if self.mask is None else self.mask[group].float()
        shift = (target - values).mul_(kept).div_(kept.sum(0).clamp_min(1)).sum(0)
        moved = torch.where(symmetric, offset, levels.stored.offset(offset + shift))
        units = (values - offset).div_(scale).mul_(kept)
        squares, along = units.square().sum(0), units.mul_(target).sum(0)
        fitted = levels.stored.positive_scale(along / torch.where(squares > 0, squares, 1.0))
        return torch.where(symmetric & (along > 0), fitted, scale), moved

    def step(self, grid: Grid) -> Tensor:
        """The scale."""
        return grid[0]

    def stretched(self, group: slice, grid: Grid, low: Tensor, high: Tensor) -> Grid:
        """Another scale and offset."""
        scale, offset = grid
        levels, half, symmetric = self._levels(group), self.levels.half, self.levels.symmetric
        lowest = (offset - half * scale) * low
        ranged = ((offset + (half - 1) * scale) * high - lowest) / (2 * half - 1)
        wanted = torch.where(symmetric, scale * ((low + high) / 2), ranged)
        # Ends of one sign may pass each other; and a row that is not stretched stays to the bit.
        moved = (wanted > 0) & ((low != 1) | (high != 1))
        shifted = torch.where(symmetric, offset, levels.stored.offset(lowest + half * wanted))
        found = levels.stored.positive_scale(wanted)
        return torch.where(moved, found, scale), torch.where(moved, shifted, offset)

    def of_ends(self, values: Tensor, before: Grid, after: Grid) -> tuple[Tensor, Tensor]:
        """Each end moves the values beside it most, and those at the other not at all."""
        half, symmetric = self.levels.half, self.levels.symmetric
        share = (values - after[1]).div_(after[0]).add_(half).div_(2 * half - 1)
        low = (before[1] - half * before[0]) * (1 - share)
        high = (before[1] + (half - 1) * before[0]) * share
        return torch.where(symmetric, values, low), torch.where(symmetric, values, high)

    def on_another(self, values: Tensor, before: Grid, after: Grid) -> Tensor:
        """The same of the scale and the offset."""
        return (values - before[1]).div_(before[0]).mul_(after[0]).add_(after[1])

    def codes(self, weight: Tensor, grid: Grid) -> Tensor:
        """The nearest codes, from 0 on; float32."""
        return self.levels.quantize(weight, *grid) + self.levels.half

    def codes_and_values(self, weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """The nearest codes, from 0 on, and what they decode to; float32."""
        scale, offset = grid
        code = self.levels.quantize(weight, scale, offset)
        return code + self.levels.half, code.mul_(scale).add_(offset)

    def packed(self, codes: Tensor, grids: list[Grid]) -> list[Packed]:
        """Each scheme its own rows."""
        pairs = [(scale, offset) for scale, offset in grids]
        return unstacked(codes, pairs, self.schemes, self.rows, self.steps, self.mask)

    def _levels(self, group: slice) -> Levels:
        if self.steps is None:
            return self.levels
        return replace(self.levels, stored=stored_in(self.steps, group, self.group))

"""A scheme whose codes stand for the levels of a codebook."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.grid import REFITS, SHRINKS, stacked
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.refit import refit_scale
from bitplan.compress.steps import Steps, steps_of, stored_in
from bitplan.compress.stored import AsKind
from bitplan.formats import Packed
from bitplan.formats.codebook import codebook_of
from bitplan.formats.scales import matrix_scale_for
from bitplan.schema import Scheme

POWERS = (1.0, 2.0, 0.5, 0.25)
"""Of the power of two that covers a group, those that the search tries."""

NEIGHBOURS = tuple(2.0 ** (-step / 8) for step in (0, -1, 1, 2, 3, 4, 5, 6, 7))
"""Of the e4m3 scale that covers a group, shares near its neighbours, which lie 2^(1/8) apart."""

MEANS = tuple(0.6 + 0.1 * step for step in range(15))
"""Of the mean absolute weight, shares that the search tries where levels are few."""

TERNARY_THRESHOLD = 0.7
"""Of the mean absolute weight, below which a weight counts as zero (Li et al., 2016)."""


class CodebookPlane(AbstractPlane):
    """The weight in one scheme; a grid is a scale, as it is stored.

    Args:
        weight: some rows of a matrix.
        scheme: neither float nor integer.
        reach: the largest absolute value of the whole matrix; None: of the weight.
        choice: which of the scheme's codebooks.
    """

    def __init__(
        self,
        weight: Float[Tensor, "out in"],
        scheme: Scheme,
        reach: Float[Tensor, ""] | None = None,
        choice: int = 0,
    ) -> None:
        self.scheme, self.rows = scheme, len(weight)
        self.work = stacked(weight, [scheme])
        self.group = scheme.group_size or weight.shape[1]
        self.sparsity = scheme.sparsity
        self.book = codebook_of(scheme, choice)
        self.matrix_scale = None
        if scheme.family.matrix_bytes:
            reach = self.work.abs().amax() if reach is None else reach
            scale = matrix_scale_for(reach.item(), self.book.highest)
            self.matrix_scale = torch.tensor(scale, device=weight.device)
        self.kind = AsKind(kind=scheme.family.scale, matrix_scale=self.matrix_scale)
        self.steps: Steps | None = None
        if scheme.double:
            self.steps = steps_of(
                lambda group: (self.covering(group),), weight.shape[1], self.group
            )

    def full(self, group: slice) -> Grid:
        """See `covering`."""
        return (self._stored(group)(self.covering(group)),)

    def search(self, group: slice, importance: Tensor) -> Grid:
        """Shares of the covering scale; the best is refitted to its codes by least squares."""
        weight, stored = self.weight(group), self._stored(group)
        importance = self.matters(group, importance)
        error = partial(self.error, weight, importance)
        covering = self.covering(group)
        scale = stored(covering)
        best = error(scale)
        start = weight.abs().mean(0) if self._is_coarse else covering
        for share in self._shares():
            best, scale = _better(best, scale, stored(start * share), error)
        for _ in range(REFITS):
            candidate = stored(self._refit(weight, importance, scale))
            best, scale = _better(best, scale, candidate, error)
        return (scale,)

    def refit(
        self, group: slice, grid: Grid, values: Tensor, slope: Tensor, matrix: Tensor
    ) -> Grid:
        """Another scale."""
        return (refit_scale(grid[0], values, slope, matrix, self._stored(group)), *grid[1:])

    def toward(self, group: slice, grid: Grid, values: Tensor, target: Tensor) -> Grid:
        """Another scale."""
        scale = grid[0]
        levels = values / torch.where(scale > 0, scale, 1.0)
        if self.mask is not None:
            levels.mul_(self.mask[group])
        squares, along = levels.square().sum(0), levels.mul_(target).sum(0)
        fitted = self._stored(group)(along / torch.where(squares > 0, squares, 1.0))
        return (torch.where(along > 0, fitted, scale), *grid[1:])

    def step(self, grid: Grid) -> Tensor:
        """Levels of most codebooks do not lie evenly."""
        return grid[0] * ((self.book.highest - self.book.lowest) / (len(self.book.levels) - 1))

    def stretched(self, group: slice, grid: Grid, low: Tensor, high: Tensor) -> Grid:
        """Another scale."""
        return (self._stored(group)(grid[0] * ((low + high) / 2)), *grid[1:])

    def codes(self, weight: Tensor, grid: Grid) -> Tensor:
        """The nearest codes."""
        return self.book.codes_at(self._nearest(weight, grid[0]))

    def codes_and_values(self, weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """The nearest codes and what they decode to."""
        index = self._nearest(weight, grid[0])
        return self.book.codes_at(index), self.book.levels_at(index).mul_(grid[0])

    def packed(self, codes: Tensor, grids: list[Grid]) -> list[Packed]:
        """One weight, of one scheme."""
        scale = torch.stack([scale for (scale,) in grids], dim=1)
        whole = None if self.matrix_scale is None else self.matrix_scale.view(1, 1)
        codes, scale = codes[:, : self.rows].t(), scale[: self.rows]
        mask = None if self.mask is None else self.mask[:, : self.rows].t()
        steps = None
        if self.steps is not None:
            steps = {name: of_all[: self.rows] for name, of_all in self.steps.items()}
        return [
            Packed.encode(self.scheme, codes, scale, matrix_scale=whole, steps=steps, mask=mask)
        ]

    def error(
        self, weight: Tensor, importance: Float[Tensor, "group _"], scale: Tensor
    ) -> Float[Tensor, "rows"]:
        """The weighted squared error of a group at a scale."""
        values = self.book.levels_at(self._nearest(weight, scale))
        return values.mul_(scale).sub_(weight).square_().mul_(importance).sum(0)

    def covering(self, group: slice) -> Float[Tensor, "rows"]:
        """The scale from which a group is rounded without a search.

        The smallest at which no weight is beyond the levels. Of powers of two, that which puts the
        largest weight into the binade of the highest level (OCP Microscaling Formats v1.0, 6.3). Of
        `sign`, the mean absolute weight (Rastegari et al., XNOR-Net, 2016); of `ternary`, that of
        the weights above a threshold (Li et al., Ternary weight networks, 2016).
        """
        weight = self.weight(group)
        size = weight.abs()
        if self._is_coarse:
            mean = size.div(len(size)).sum(0)  # a sum before the division could overflow
            if self.scheme.format == "sign":
                return mean
            large = size > TERNARY_THRESHOLD * mean
            return size.mul_(large).div_(large.sum(0).clamp_min(1)).sum(0)
        if self.scheme.family.scale == "e8m0":
            exponent = torch.frexp(size.amax(0)).exponent
            highest = math.frexp(self.book.highest)[1]
            return torch.exp2((exponent - highest).float())
        above, below = weight.amax(0) / self.book.highest, weight.amin(0) / self.book.lowest
        return torch.maximum(above, below).clamp_min_(0)

    @property
    def _is_coarse(self) -> bool:
        """Whether levels are so few that the best scale leaves most weights beyond them."""
        return self.scheme.format in ("sign", "ternary")

    def _shares(self) -> tuple[float, ...]:
        if self._is_coarse:
            return MEANS
        return {"bf16": SHRINKS, "e8m0": POWERS, "e4m3": NEIGHBOURS}[self.scheme.family.scale][1:]

    def _stored(self, group: slice) -> Callable[[Tensor], Tensor]:
        """What makes of a group's scales those that decode will see."""
        if self.steps is None:
            return self.kind.scale
        return stored_in(self.steps, group, self.group).scale

    def _nearest(self, weight: Tensor, scale: Tensor) -> Tensor:
        return self.book.nearest(weight / torch.where(scale > 0, scale, 1.0))

    def _refit(self, weight: Tensor, importance: Tensor, scale: Tensor) -> Tensor:
        """The scale of least squares for the codes of another."""
        levels = self.book.levels_at(self._nearest(weight, scale))
        weighted = levels * importance
        squares = weighted.mul(levels).sum(0)
        fitted = weighted.mul_(weight).sum(0) / squares
        return torch.where((squares > 0) & (fitted > 0), fitted, scale)


def _better(
    best: Tensor, scale: Tensor, candidate: Tensor, error: partial
) -> tuple[Tensor, Tensor]:
    found = error(candidate)
    better = found < best
    return torch.where(better, found, best), torch.where(better, candidate, scale)

"""A scheme whose weights are the sum of two planes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from bitplan.compress.grid import stacked
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.refit import refit_planes
from bitplan.compress.steps import Steps, steps_of
from bitplan.formats import Packed, double
from bitplan.formats.codebook import look_up
from bitplan.formats.scales import SCALE_DTYPE
from bitplan.formats.two_planes import SECOND, units
from bitplan.schema import Scheme

STARTS = {
    "ternary2": ((1.7, 1.1), (2.0, 0.7), (2.2, 0.5), (1.6, 1.4)),
    "binary2": (
        *((2.4, -1.5), (1.5, -2.4), (2.0, -2.0), (2.6, -1.0), (1.0, -2.6)),
        *((1.2, 0.6), (1.8, 0.6), (-0.6, -1.2)),
    ),
}
"""Scales from which a fit begins, of groups whose mean absolute weight is 1. Of a normal
distribution the first are the best there are; the last three of `binary2` are for weights that all
lie on one side of zero."""

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4, 1.6)
"""Of these, those that the search begins from as well. What lies nearest to a group's best counts
for more than turns do: of 16 normal weights two shares leave 1.1 times the error that these do."""

ROUNDS = 5
"""Turns of scales and codes. Of normal weights five more lower the error by less than 0.1%."""

RIDGE = 1e-5
"""Of the sum of both planes' squares, what is added to each: scales of planes that are alike, of
which least squares do not say how to share, are then alike too."""


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """The values of each row's codes in rising order, and what lies in the middle of two."""

    values: Float[Tensor, "codes rows"]
    codes: UInt8[Tensor, "codes rows"]
    middles: Float[Tensor, "codes-1 rows"]

    def nearest(self, weight: Float[Tensor, "*columns rows"]) -> Int64[Tensor, "_ rows"]:
        """The place of each weight's value; in the middle of two the lower."""
        place = torch.zeros_like(weight, dtype=torch.uint8)
        for middle in self.middles:
            place += (weight > middle).view(torch.uint8)
        return place.long().view(-1, weight.shape[-1])


class TwoPlane(AbstractPlane):
    """The weight in one scheme; a grid is a scale for each plane, as both are stored.

    PTQTP (Xiao et al., 2025) and DB-LLM (Chen et al., 2024): in turns the scales are those of least
    squares with a ridge for the codes, and every weight gets the nearest of the values that its
    group then has. With planes of -1, 0 and 1 the scales are positive; the first is the larger.
    """

    def __init__(self, weight: Float[Tensor, "out in"], scheme: Scheme) -> None:
        self.scheme, self.rows = scheme, len(weight)
        self.work = stacked(weight, [scheme])
        self.group = scheme.group_size or weight.shape[1]
        self.sparsity = scheme.sparsity
        self.units = units(scheme.format).to(weight.device)
        self.steps: Steps | None = None
        if scheme.double:
            names = ("scale", SECOND)
            self.steps = steps_of(self.full, weight.shape[1], self.group, names)

    def full(self, group: slice) -> Grid:
        """A fit to the weights alone."""
        weight = self.weight(group)
        importance = self.matters(group, torch.ones(len(weight), device=weight.device))
        return self._fitted(group, importance, self._starts(group, (1.0,)))

    def search(self, group: slice, importance: Tensor) -> Grid:
        """A fit to the weighted error, begun where it is least."""
        starts = [self.full(group), *self._starts(group, SHARES)]
        return self._fitted(group, self.matters(group, importance), starts)

    def refit(
        self, group: slice, grid: Grid, values: Tensor, slope: Tensor, matrix: Tensor
    ) -> Grid:
        """Other scales of both planes."""
        first, second = grid
        planes = self._planes(group, values, grid)
        return refit_planes(
            (first, second), planes, slope, matrix, lambda *scales: self._stored(group, *scales)
        )

    def toward(self, group: slice, grid: Grid, values: Tensor, target: Tensor) -> Grid:
        """Other scales of both planes."""
        planes = self._planes(group, values, grid)
        return self._stored(group, *_least_squares(planes, target, torch.ones_like(target[:, :1])))

    def step(self, grid: Grid) -> Tensor:
        """The sums of two planes do not lie evenly."""
        values = _sum(self.units.unsqueeze(-1), grid)
        return (values.amax(0) - values.amin(0)) / (len(values) - 1)

    def stretched(self, group: slice, grid: Grid, low: Tensor, high: Tensor) -> Grid:
        """Other scales of both planes."""
        factor = (low + high) / 2
        return self._stored(group, *(scale * factor for scale in grid))

    def on_another(self, values: Tensor, before: Grid, after: Grid) -> Tensor:
        """The sum of the same planes."""
        return _sum(self._units_of(self.codes(values, before)), after)

    def codes(self, weight: Tensor, grid: Grid) -> Tensor:
        """The nearest codes."""
        levels = self._sorted(grid)
        return levels.codes.gather(0, levels.nearest(weight)).view(weight.shape)

    def codes_and_values(self, weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """The nearest codes and what they decode to."""
        levels = self._sorted(grid)
        place = levels.nearest(weight)
        codes, values = (of.gather(0, place) for of in (levels.codes, levels.values))
        return codes.view(weight.shape), values.view(weight.shape)

    def packed(self, codes: Tensor, grids: list[Grid]) -> list[Packed]:
        """One weight, of one scheme."""
        scale, second = (torch.stack(each, dim=1)[: self.rows] for each in zip(*grids, strict=True))
        steps = None
        if self.steps is not None:
            steps = {name: of_all[: self.rows] for name, of_all in self.steps.items()}
        mask = None if self.mask is None else self.mask[:, : self.rows].t()
        codes = codes[:, : self.rows].t()
        return [
            Packed.encode(self.scheme, codes, scale, second=second, steps=steps, mask=mask),
        ]

    def _starts(self, group: slice, shares: tuple[float, ...]) -> list[Grid]:
        size = self.weight(group).abs()
        mean = size.div_(len(size)).sum(0)  # a sum before the division could overflow
        return [
            self._stored(group, mean * (share * one), mean * (share * other))
            for share in shares
            for one, other in STARTS[self.scheme.format]
        ]

    def _fitted(self, group: slice, importance: Tensor, starts: list[Grid]) -> Grid:
        """The best of some grids, then in turns codes and scales as long as the error falls."""
        weight = self.weight(group)
        grid, best = starts[0], self._error(weight, importance, starts[0])
        for start in starts[1:]:
            best, grid = self._better(weight, importance, (best, grid), start)
        for _ in range(ROUNDS):
            planes = self._units_of(self.codes(weight, grid))
            candidate = self._stored(group, *_least_squares(planes, weight, importance))
            best, grid = self._better(weight, importance, (best, grid), candidate)
        return grid

    def _better(
        self, weight: Tensor, importance: Tensor, known: tuple[Tensor, Grid], candidate: Grid
    ) -> tuple[Tensor, Grid]:
        best, grid = known
        error = self._error(weight, importance, candidate)
        better = error < best
        chosen = (torch.where(better, new, old) for new, old in zip(candidate, grid, strict=True))
        return torch.where(better, error, best), tuple(chosen)

    def _error(self, weight: Tensor, importance: Tensor, grid: Grid) -> Float[Tensor, "rows"]:
        values = _sum(self.units.unsqueeze(-1), grid)
        distance = (weight - values[0]).abs_()
        for value in values[1:]:
            torch.minimum(distance, (weight - value).abs_(), out=distance)
        return distance.square_().mul_(importance).sum(0)

    def _sorted(self, grid: Grid) -> Sorted:
        values, order = _sum(self.units.unsqueeze(-1), grid).sort(dim=0, stable=True)
        middles = values[1:] / 2 + values[:-1] / 2  # a sum before the division could overflow
        return Sorted(values=values, codes=order.to(torch.uint8), middles=middles)

    def _units_of(self, codes: UInt8[Tensor, "group rows"]) -> Float[Tensor, "2 group rows"]:
        index = codes.int()
        return torch.stack([look_up(of_codes, index) for of_codes in self.units])

    def _planes(self, group: slice, values: Tensor, grid: Grid) -> Float[Tensor, "2 group rows"]:
        """The planes of what is decoded, zeros where nothing is kept."""
        planes = self._units_of(self.codes(values, grid))
        return planes if self.mask is None else planes.mul_(self.mask[group])

    def _stored(self, group: slice, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Scales as they are stored: the same values, whichever plane has which."""
        if self.scheme.format == "ternary2":
            one, other = one.abs(), other.abs()
        first, second = torch.maximum(one, other), torch.minimum(one, other)
        if self.steps is None:
            most = torch.finfo(SCALE_DTYPE).max
            stored = (scale.clamp(-most, most).to(SCALE_DTYPE) for scale in (first, second))
            first, second = (scale.float() for scale in stored)
            return first, second
        block = group.start // (self.group * double.SHARED)
        by, of_second = self.steps["scale"][:, block], self.steps[SECOND][:, block]
        return double.round_scale(first, by, least=0), double.round_offset(second, of_second)


def _sum(planes: Float[Tensor, "2 *columns rows"], grid: Grid) -> Float[Tensor, "*columns rows"]:
    first, second = grid
    return planes[0] * first + planes[1] * second


def _least_squares(
    planes: Float[Tensor, "2 group rows"],
    target: Float[Tensor, "group rows"],
    importance: Float[Tensor, "group _"],
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """The scales whose sum of the planes is nearest to a target."""
    weighted = planes * (importance / importance.sum(0))
    a, b, c = ((weighted[i] * planes[j]).sum(0) for i, j in ((0, 0), (0, 1), (1, 1)))
    ridge = RIDGE * (a + c)
    a, c = a + ridge, c + ridge
    along, across = (weighted[0] * target).sum(0), (weighted[1] * target).sum(0)
    determinant = a * c - b * b
    by = torch.where(determinant > 0, determinant, 1.0)
    return (c * along - b * across) / by, (a * across - b * along) / by

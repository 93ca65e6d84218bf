"""A scheme whose groups choose among several codebooks."""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.codebook_plane import CodebookPlane
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.steps import steps_of
from bitplan.formats import Packed
from bitplan.schema import Scheme


class MixedPlane(AbstractPlane):
    """The weight on the plane of each codebook; a grid is a scale and which of them, uint8."""

    def __init__(self, weight: Float[Tensor, "out in"], scheme: Scheme) -> None:
        self.scheme, self.rows = scheme, len(weight)
        first = CodebookPlane(weight, scheme)
        self.planes, self.work, self.group = [first], first.work, first.group
        for choice in range(1, scheme.family.choices):
            self.planes.append(CodebookPlane(weight, scheme, choice=choice))
            self.planes[-1].work = self.work  # one copy, which a quantizer changes for all of them
        self.steps, self.sparsity = None, scheme.sparsity
        if scheme.double:
            self.steps = steps_of(self._covering, weight.shape[1], self.group)
            for plane in self.planes:
                plane.steps = self.steps

    def prune(self, mask: Tensor) -> None:
        """One mask for all."""
        super().prune(mask)
        for plane in self.planes:
            plane.prune(mask)

    def full(self, group: slice) -> Grid:
        """The covering scale of each codebook, and that codebook whose squared error is least."""
        grids = [plane.full(group) for plane in self.planes]
        ones = torch.ones(len(self.work[group]), device=self.work.device)
        return self._best(group, self.matters(group, ones), grids)

    def search(self, group: slice, importance: Tensor) -> Grid:
        """The best scale of each codebook, and the best codebook."""
        grids = [plane.search(group, importance) for plane in self.planes]
        return self._best(group, self.matters(group, importance), grids)

    def refit(
        self, group: slice, grid: Grid, values: Tensor, slope: Tensor, matrix: Tensor
    ) -> Grid:
        """Another scale for the codebook that each row has."""
        return self.planes[0].refit(group, grid, values, slope, matrix)

    def toward(self, group: slice, grid: Grid, values: Tensor, target: Tensor) -> Grid:
        """Another scale for the codebook that each row has."""
        return self.planes[0].toward(group, grid, values, target)

    def step(self, grid: Grid) -> Tensor:
        """Of the codebook that each row has."""
        return self._chosen([plane.step(grid) for plane in self.planes], grid[1])

    def stretched(self, group: slice, grid: Grid, low: Tensor, high: Tensor) -> Grid:
        """Another scale for the codebook that each row has."""
        return self.planes[0].stretched(group, grid, low, high)

    def codes(self, weight: Tensor, grid: Grid) -> Tensor:
        """The nearest codes."""
        scale, choice = grid
        return self._chosen([plane.codes(weight, (scale,)) for plane in self.planes], choice)

    def codes_and_values(self, weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """The nearest codes and what they decode to."""
        scale, choice = grid
        found = [plane.codes_and_values(weight, (scale,)) for plane in self.planes]
        codes, values = (self._chosen(list(each), choice) for each in zip(*found, strict=True))
        return codes, values

    def packed(self, codes: Tensor, grids: list[Grid]) -> list[Packed]:
        """One weight, of one scheme."""
        scale, choice = (torch.stack(each, dim=1) for each in zip(*grids, strict=True))
        rows, steps = slice(self.rows), None
        if self.steps is not None:
            steps = {name: of_all[rows] for name, of_all in self.steps.items()}
        codes, scale, choice = codes[:, rows].t(), scale[rows], choice[rows]
        mask = None if self.mask is None else self.mask[:, rows].t()
        packed = Packed.encode(self.scheme, codes, scale, steps=steps, choice=choice, mask=mask)
        return [packed]

    def _covering(self, group: slice) -> Grid:
        return (torch.stack([plane.covering(group) for plane in self.planes]).amax(0),)

    def _best(self, group: slice, importance: Tensor, grids: list[Grid]) -> Grid:
        weight = self.weight(group)
        errors = [
            plane.error(weight, importance, scale)
            for plane, (scale,) in zip(self.planes, grids, strict=True)
        ]
        choice = torch.stack(errors).argmin(0)
        return self._chosen([scale for (scale,) in grids], choice), choice.to(torch.uint8)

    def _chosen(self, each: list[Tensor], choice: Tensor) -> Tensor:
        """Of a tensor [..., rows] for each codebook what its rows have chosen."""
        found = each[0]
        for number, tensor in enumerate(each[1:], start=1):
            found = torch.where(choice == number, tensor, found)
        return found

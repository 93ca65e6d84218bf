"""What a quantizer goes over: a weight laid out to be rounded group by group.

Everything is column-major here, [in, rows]: a column of the weight is then contiguous.
"""

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from bitplan.formats import Packed
from bitplan.schema import Sparsity

Grid: TypeAlias = tuple[Tensor, ...]
"""Where a group of each row is rounded to, [rows] each: a scale and what else there is."""


class AbstractPlane(ABC):
    """The rows of a weight in one scheme, or in several that are rendered in one pass.

    Args:
        work: the rows, float32; a quantizer may change them as it goes.
        group: columns that share a grid.
        sparsity: of the scheme, or of all the schemes; None: every weight has a code.
        mask: True where a weight is kept, as far as the quantizer has chosen; None without
            sparsity. What is not kept has no part in where a grid lies.
    """

    work: Float[Tensor, "in rows"]
    group: int
    sparsity: Sparsity | None = None
    mask: Bool[Tensor, "in rows"] | None = None

    def prune(self, mask: Bool[Tensor, "in rows"]) -> None:
        """Let a mask say what is kept; the quantizer may change it as it goes."""
        self.mask = mask

    def columns(self, index: int) -> slice:
        """Those of a group, by its number."""
        return slice(index * self.group, min((index + 1) * self.group, len(self.work)))

    def weight(self, group: slice) -> Float[Tensor, "group rows"]:
        """A group as it is now; the mean of what is kept where a weight is not."""
        weight = self.work[group]
        if self.mask is None:
            return weight
        kept = self.mask[group]
        mean = weight.mul(kept).sum(0).div_(kept.sum(0).clamp_min(1))
        return torch.where(kept, weight, mean)

    def matters(self, group: slice, importance: Float[Tensor, "group"]) -> Float[Tensor, "group _"]:
        """How much an error in each weight of a group matters: [group, 1], or by row as well."""
        column = floored(importance).unsqueeze(1)
        return column if self.mask is None else column * self.mask[group]

    @abstractmethod
    def full(self, group: slice) -> Grid:
        """The grid that covers a group of columns as they are now: no search, no data."""

    @abstractmethod
    def search(self, group: slice, importance: Float[Tensor, "group"]) -> Grid:
        """The grid that minimises the squared error weighted by `importance`."""

    @abstractmethod
    def refit(
        self,
        group: slice,
        grid: Grid,
        values: Float[Tensor, "group rows"],
        slope: Float[Tensor, "group rows"],
        matrix: Float[Tensor, "group group"],
    ) -> Grid:
        """The grid that lowers the loss most with the codes as they are; where none does, `grid`.

        `values` is what the codes decode to, `slope` half of how fast the loss falls where they
        rise, and `matrix` half of the loss's second derivatives.
        """

    @abstractmethod
    def toward(
        self,
        group: slice,
        grid: Grid,
        values: Float[Tensor, "group rows"],
        target: Float[Tensor, "group rows"],
    ) -> Grid:
        """The grid nearest to `target` in least squares with the codes of `values` as they are.

        The offset of a row moves where it has one, else its scale, or those of its two planes.
        """

    @abstractmethod
    def step(self, grid: Grid) -> Float[Tensor, "rows"]:
        """How far apart its values lie, on average."""

    @abstractmethod
    def stretched(
        self, group: slice, grid: Grid, low: Float[Tensor, "rows"], high: Float[Tensor, "rows"]
    ) -> Grid:
        """The grid whose lowest and highest values are so many times what they are.

        Of a row without an offset it is the scale that is, by the mean of the two.
        """

    def of_ends(
        self, values: Float[Tensor, "group rows"], before: Grid, after: Grid
    ) -> tuple[Tensor, Tensor]:
        """How `values` on a stretched grid go with each of the two factors, up to a factor."""
        del before, after
        return values, values

    def on_another(self, values: Float[Tensor, "group rows"], before: Grid, after: Grid) -> Tensor:
        """Within rounding what the codes of `values` decode to when the scale is another."""
        return values / torch.where(before[0] > 0, before[0], 1.0) * after[0]

    @abstractmethod
    def codes(self, weight: Float[Tensor, "*columns rows"], grid: Grid) -> UInt8[Tensor, "..."]:
        """The nearest codes."""

    @abstractmethod
    def codes_and_values(
        self, weight: Float[Tensor, "*columns rows"], grid: Grid
    ) -> tuple[Tensor, Float[Tensor, "*columns rows"]]:
        """The nearest codes and what they decode to."""

    @abstractmethod
    def packed(self, codes: UInt8[Tensor, "in rows"], grids: list[Grid]) -> list[Packed]:
        """The weight in each scheme, from the codes and the grids of all groups, and the mask."""


def floored(importance: Float[Tensor, "in"]) -> Float[Tensor, "in"]:
    """The importance of columns, none of them nothing beside the others."""
    floor = importance.mean() * 1e-4
    # Where nothing was seen, as by an expert that no token reached, all columns weigh the same.
    return torch.where(floor > 0, importance.clamp_min(floor), 1.0)

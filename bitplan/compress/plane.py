"""What a quantizer goes over: a weight laid out to be rounded group by group.

Everything is column-major here, [in, rows]: a column of the weight is then contiguous.
"""

from abc import ABC, abstractmethod
from typing import TypeAlias

from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.formats import Packed

Grid: TypeAlias = tuple[Tensor, ...]
"""Where a group of each row is rounded to, [rows] each: a scale and what else there is."""


class AbstractPlane(ABC):
    """The rows of a weight in one scheme, or in several that are rendered in one pass.

    Args:
        work: the rows, float32; a quantizer may change them as it goes.
        group: columns that share a grid.
    """

    work: Float[Tensor, "in rows"]
    group: int

    @abstractmethod
    def full(self, group: slice) -> Grid:
        """The grid that covers a group of columns as they are now: no search, no data."""

    @abstractmethod
    def search(self, group: slice, importance: Float[Tensor, "group"]) -> Grid:
        """The grid that minimises the squared error weighted by `importance`."""

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
        """The weight in each scheme, from the codes and the grids of all groups."""

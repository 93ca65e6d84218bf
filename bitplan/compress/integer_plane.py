"""Integer schemes of one group size, side by side."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from bitplan.compress.grid import Levels, full_range, search_range, stacked, unstacked
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.formats import Packed
from bitplan.schema import Scheme


class IntegerPlane(AbstractPlane):
    """A copy of the weight for every scheme; a grid is a scale and an offset."""

    def __init__(self, weight: Float[Tensor, "out in"], schemes: Sequence[Scheme]) -> None:
        self.schemes, self.rows = schemes, len(weight)
        self.work = stacked(weight, schemes)
        self.group = schemes[0].group_size or weight.shape[1]
        self.levels = Levels.of(schemes, self.work)

    def full(self, weight: Tensor) -> Grid:
        """From minimum to maximum."""
        return full_range(weight, self.levels)

    def search(self, weight: Tensor, importance: Tensor) -> Grid:
        """A narrower range, refitted to its codes."""
        return search_range(weight, importance, self.levels)

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
        return unstacked(codes, pairs, self.schemes, self.rows)

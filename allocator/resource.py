"""What a plan may be limited in beside its bytes, in general: a name, amounts, and the most.

Amounts are whole steps, rounded up, so that a limit that holds in steps holds.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from bitplan.allocator.limit import Unit
from bitplan.allocator.rules import Amounts
from bitplan.errors import InputError
from bitplan.schema import Cost, CostTable, Layer


@dataclass(frozen=True, kw_only=True)
class AbstractResource(ABC):
    """Something that layers take, by their schemes, and the most that there is of it."""

    most: float

    largest: ClassVar[bool] = False
    """Whether the most is for each layer alone, not for all together."""

    measured: ClassVar[bool] = False
    """Whether its amounts rest on what is known of a model only when it has been measured."""

    def __post_init__(self) -> None:
        if not (isinstance(self.most, int | float) and 0 <= self.most < math.inf):
            raise InputError(
                f"The limit of {type(self).__name__} is {self.most!r}; it must be a number of 0 "
                "or more."
            )

    @abstractmethod
    def unit(self, table: CostTable) -> Unit:
        """What a step is, of a table."""

    @abstractmethod
    def amounts(self, table: CostTable) -> Amounts:
        """Steps that every layer takes in every scheme."""


def for_each(table: CostTable, amount: Callable[[Layer, Cost], int]) -> Amounts:
    """An amount of every layer in every scheme."""
    return {
        row.layer.name: {str(cost.scheme): amount(row.layer, cost) for cost in row.costs}
        for row in table.rows
    }

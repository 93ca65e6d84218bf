"""How many bytes the whole model may take."""

import math
from typing import Any

from bitplan.errors import BudgetError
from bitplan.schema.record import Record


class Budget(Record):
    """How many bytes the whole model may take: give exactly one of `gb` and `bytes`.

    1 GB is 10^9 bytes. Raises `BudgetError` for zero, negative, infinite or NaN.

    >>> Budget(gb=4.5).total_bytes
    4500000000
    """

    gb: float | None = None
    bytes: int | None = None

    def __init__(self, *, gb: float | None = None, bytes: int | None = None) -> None:
        if (gb is None) == (bytes is None):
            raise BudgetError("A budget needs either gb or bytes. Give one: Budget(gb=4.5).")
        amount, unit = (gb, "GB") if bytes is None else (bytes, "bytes")
        if not (isinstance(amount, int | float) and math.isfinite(amount) and amount > 0):
            raise BudgetError(f"The budget is {amount!r} {unit}; it must be a number above zero.")
        if gb is not None and not math.isfinite(gb * 1e9):
            raise BudgetError(
                f"The budget is {gb!r} GB, more bytes than can be counted; it must be a number of "
                "gigabytes."
            )
        values: dict[str, Any] = {"gb": gb, "bytes": bytes}
        super().__init__(**values)

    @property
    def total_bytes(self) -> int:
        """The budget in bytes, rounded down."""
        if self.bytes is not None:
            return self.bytes
        assert self.gb is not None
        return math.floor(round(self.gb * 1e9, 3))

    @classmethod
    def of(cls, budget: "Budget | float") -> "Budget":
        """A budget from a budget or a number of gigabytes."""
        return budget if isinstance(budget, Budget) else cls(gb=budget)

"""A limit: an amount that every row adds to, by its scheme, and the most that all may add up to."""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from bitplan.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How whole steps are told to people: `(steps + rest) * scale`, then the noun.

    >>> Unit(noun="bits per weight", scale=Fraction(8, 1000), decimals=2).show(501)
    '4.01 bits per weight'
    """

    noun: str
    scale: Fraction = field(default=Fraction(1))  # units in a step
    decimals: int = 0
    rest: int = 0  # steps that are taken whatever is chosen

    def show(self, steps: int) -> str:
        """The number and its noun, rounded up: who asks for what is shown gets these steps."""
        return f"{self.number(steps)} {self.noun}"

    def number(self, steps: int) -> str:
        """The number alone."""
        shift = 10**self.decimals
        shown = -(-(steps + self.rest) * self.scale * shift // 1)
        text = f"{shown // shift:,}"
        digits = f"{shown % shift:0{self.decimals}d}".rstrip("0") if self.decimals else ""
        return f"{text}.{digits}" if digits else text

    def steps(self, number: float) -> int:
        """The most whole steps that come to no more than a number of units."""
        # As it is written: 4.1 is 41/10 here, not the nearest binary fraction.
        return int(Fraction(str(number)) / self.scale // 1) - self.rest


@dataclass(frozen=True, kw_only=True, eq=False)
class Limit:
    """What the rows of a problem may add up to, beside its bytes."""

    name: str  # in the caller's words
    amounts: np.ndarray  # [rows, schemes] int64, steps of the unit; 0 where not legal
    most: int  # steps, of all rows together
    unit: Unit

    def __post_init__(self) -> None:
        if not np.issubdtype(self.amounts.dtype, np.integer) or (self.amounts < 0).any():
            raise InputError(
                f"The amounts of {self.name!r} must be whole numbers of 0 or more; they have "
                f"{self.amounts.dtype} from {self.amounts.min()}."
            )

    def of(self, choice: np.ndarray) -> int:
        """What a choice [rows] adds up to, in steps."""
        return int(self.amounts[np.arange(len(choice)), choice].sum())


def number_text(number: float) -> str:
    """A number as a caller would write it.

    >>> number_text(4.0), number_text(4.25), number_text(2e9)
    ('4', '4.25', '2,000,000,000')
    """
    return f"{int(number):,}" if number == int(number) else str(number)

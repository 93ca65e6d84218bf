"""How many sequences each set has, and how long they are: as asked for, and as settled."""

import logging
from dataclasses import dataclass, fields

from torch import nn

from bitplan.calibration.limits import check_length, context_of
from bitplan.errors import CalibrationError

log = logging.getLogger(__name__)

SEQUENCES = 32
"""Calibration sequences by default. With `LENGTH` that is 8,192 tokens: a few minutes for a model
of 135 M parameters on two cores. Four times as many lowered the perplexity of its uniform 3-bit
rendering from 20.1 to 19.4: where there is time, more is better."""

LENGTH = 256
"""Tokens in a sequence by default. At one number of tokens, short sequences are more texts, and
the bootstrap over sequences has more to draw from; layers that only matter far into a long context
are seen less. A model that reads fewer gets sequences of what it reads."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sequences of each set, and their common length in tokens, as a caller asks for them.

    Raises `CalibrationError` for what is too small.

    Args:
        calibration: sequences that layers are measured on; None: 32, or what a time limit allows.
        search: sequences that refinement compares plans on.
        held_out: sequences that the plan is judged on.
        length: tokens in a sequence; None: 256, or as many as the model reads where that is less.
            Given tokens keep their own length.
    """

    calibration: int | None = None
    search: int = 8
    held_out: int = 16
    length: int | None = None

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sequences of each set, and their common length in tokens, as settled for one model."""

    calibration: int
    search: int
    held_out: int
    length: int

    def __post_init__(self) -> None:
        _check(self)

    @property
    def total(self) -> int:
        """Sequences of all three sets."""
        return self.calibration + self.search + self.held_out


def length_of(sizes: Sizes, model: nn.Module, *, own_length: int | None = None) -> int:
    """Tokens in a sequence: as given, or as asked for, or the default cut to the context."""
    return own_length or sizes.length or min(LENGTH, context_of(model) or LENGTH)


def settle(sizes: Sizes, model: nn.Module, *, own_length: int | None = None) -> Counts:
    """Sizes with their defaults filled in for a model.

    `own_length` is that of tokens which are given ready. A default length is cut to the model's
    context, and the log says so. Raises `CalibrationError` where a length that was asked for is
    longer than the model reads.
    """
    length = length_of(sizes, model, own_length=own_length)
    if not (own_length or sizes.length) and length < LENGTH:
        log.warning(
            "The model reads at most %d tokens: calibration sequences have that length in "
            "place of %d.",
            length,
            LENGTH,
        )
    check_length(length, model)
    return Counts(
        calibration=sizes.calibration or SEQUENCES,
        search=sizes.search,
        held_out=sizes.held_out,
        length=length,
    )


def _check(sizes: Sizes | Counts) -> None:
    for field in fields(sizes):
        value, least = getattr(sizes, field.name), 2 if field.name == "length" else 1
        if value is not None and value < least:
            raise CalibrationError(
                f"{type(sizes).__name__}({field.name}={value}) is too small; it must be {least} or "
                "more."
            )

"""How much work the weights are worth, from seconds to hours: one word for several settings."""

from dataclasses import dataclass

from bitplan.errors import InputError

STANDARD = "standard"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What is done where nothing else is asked for.

    Args:
        quantizer: a name of `bitplan.compress.QUANTIZERS`, that renders the weights.
        refine_passes: passes over the search tokens that refinement takes.
        tune_epochs: passes over the calibration tokens that `apply_plan` tunes.
        purpose: what it is for, in a sentence.
    """

    quantizer: str
    refine_passes: int
    tune_epochs: float
    purpose: str


EFFORTS = {
    "low": Effort(
        quantizer="clip",
        refine_passes=0,
        tune_epochs=0,
        purpose="A first look: grids are searched, and no weight makes up for another's error.",
    ),
    STANDARD: Effort(
        quantizer="gptq",
        refine_passes=10,
        tune_epochs=0,
        purpose="Weights make up for each other's errors, and the plan is refined on the model.",
    ),
    "high": Effort(
        quantizer="quantease",
        refine_passes=20,
        tune_epochs=8,
        purpose="What ships: errors are made up for again and again, and scales are tuned on the "
        "whole model.",
    ),
}
"""From the quickest to the best."""


def get_effort(name: str) -> Effort:
    """The effort of a name; raises `InputError` with those there are.

    >>> get_effort("high").quantizer
    'quantease'
    """
    if name not in EFFORTS:
        raise InputError(f"There is no effort {name!r}. Choose one of: {', '.join(EFFORTS)}.")
    return EFFORTS[name]

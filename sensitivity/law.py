"""A law through a few measured bit-widths: the others are predicted, and the fit is stated.

The error of b bits falls about fourfold a bit (Bennett, 1948: noise power ~ 4^-b), so that a
layer's log loss is close to a line in b. Each layer and family of schemes (those that differ in
bits alone) has a line of its own, through its measured losses by least squares. Formats of one
width, such as fp8 or nf4, have none: they are measured.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitplan.errors import InputError
from bitplan.schema import WIDE, Layer, Scheme
from bitplan.sensitivity.losses import Losses

By = Mapping[Scheme, Losses]


@dataclass(frozen=True, kw_only=True)
class Law:
    """Losses of all schemes, those that were not measured from the law.

    `error` is the root mean square error of the natural log of the loss: each measured bit-width
    that lies between others is predicted from those others. NaN where none does.
    """

    losses: dict[Layer, dict[Scheme, Losses]]
    predicted: int
    error: float


def fit(measured: Mapping[Layer, By], wanted: Mapping[Layer, Sequence[Scheme]]) -> Law:
    """Predict what is wanted and not measured. Raises `InputError` for a family of one width."""
    losses, predicted, residuals = {}, 0, []
    for layer, schemes in wanted.items():
        known = measured[layer]
        families = _families(known)
        residuals += [r for family in families.values() for r in _left_out(family)]
        losses[layer] = {}
        for scheme in schemes:
            if scheme in known:
                losses[layer][scheme] = known[scheme]
                continue
            if scheme.format not in WIDE:
                raise InputError(
                    f"{scheme} of {layer.name} cannot be predicted from other widths: the law is "
                    f"for {' and '.join(WIDE)} schemes. Measure {scheme} itself."
                )
            family = families.get(_family(scheme), {})
            if len(family) < 2:
                low, _, high, *_ = WIDE[scheme.format]
                raise InputError(
                    f"To predict {scheme} of {layer.name} the law needs at least two measured "
                    f"widths of its family; there are {len(family)}. Measure more, such as "
                    f"{replace(scheme, bits=low)} and {replace(scheme, bits=high)}."
                )
            losses[layer][scheme] = _predict(family, int(scheme.bits))
            predicted += 1
    error = float(np.sqrt(np.mean(np.square(residuals)))) if residuals else float("nan")
    return Law(losses=losses, predicted=predicted, error=error)


def _family(scheme: Scheme) -> Scheme:
    return replace(scheme, bits=8)


def _families(known: By) -> dict[Scheme, dict[int, Losses]]:
    families: dict[Scheme, dict[int, Losses]] = defaultdict(dict)
    for scheme, losses in known.items():
        if scheme.format in WIDE and losses.loss > 0:
            families[_family(scheme)][int(scheme.bits)] = losses
    return families


def _line(family: Mapping[int, Losses], bits: int) -> float:
    """The log loss that the line through a family gives a width."""
    widths = np.array(list(family))
    logs = np.log([losses.loss for losses in family.values()])
    slope, intercept = np.polyfit(widths, logs, 1)
    return float(slope * bits + intercept)


def _predict(family: Mapping[int, Losses], bits: int) -> Losses:
    loss = float(np.exp(_line(family, bits)))
    nearest = family[min(family, key=lambda width: abs(width - bits))]
    # The sequences share in it as they do in the nearest width that was measured.
    return Losses(loss=loss, by_sequence=nearest.by_sequence * (loss / nearest.loss))


def _left_out(family: Mapping[int, Losses]) -> list[float]:
    """Log error of each inner width, predicted from the others."""
    inner = sorted(family)[1:-1]
    errors = []
    for bits in inner:
        others = {width: losses for width, losses in family.items() if width != bits}
        errors.append(_line(others, bits) - float(np.log(family[bits].loss)))
    return errors

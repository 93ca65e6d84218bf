"""Say which layers no gradient came to on the calibration sequences, and what stands for them."""

import logging
from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.estimators import AbstractEstimator
from bitplan.sensitivity.measure import Meter
from bitplan.sensitivity.statistics import around_number

log = logging.getLogger(__name__)

NAMED = 3
"""So many layers are named, of those that nothing depends on; the others are counted."""

_GUESS = "relative weight error, in nats, stands for"


def warn_of_unreached(meter: Meter, layers: Sequence[Layer]) -> None:
    """Warn of experts that no token was given to, and of layers that no measured output depends on.

    Other text may reach the former. The latter, as the pooler of an encoder whose hidden states are
    measured, no text may reach. Estimators that read no statistics have losses of their own.
    """
    estimator = meter.estimator
    if not isinstance(estimator, AbstractEstimator):
        return
    # Whatever is read, any moment tells what was reached.
    moments = estimator.moments or meter.needs.get(estimator.labels, ())
    if not moments:
        return
    folder, unused = meter.statistics[estimator.labels], []
    for layer in layers:
        reached = folder.read(layer, moments).reached
        if reached.all():
            continue
        if layer.kind is not Kind.EXPERTS and around_number(layer) is None:
            unused.append(layer.name)
            continue
        is_guess = not folder.completed(layer, moments).reached.any()
        _warn_of_experts(layer, ~reached, is_guess=is_guess)
    if unused:
        _warn_of_unused(unused)


def _warn_of_experts(layer: Layer, unreached: Bool[Tensor, "*experts"], *, is_guess: bool) -> None:
    count = f"{int(unreached.sum())} of {unreached.numel()} experts of "
    which = "" if unreached.all() else count
    stands_in = f"the mean of {'the others' if which else 'the experts beside it'} stands in"
    if is_guess:
        stands_in = f"its {_GUESS} its loss"
    log.warning(
        "Calibration never reached %s%s: %s. Give text that makes the model use it.",
        which,
        layer.name,
        stands_in,
    )


def _warn_of_unused(names: Sequence[str]) -> None:
    named, others = ", ".join(names[:NAMED]), len(names) - NAMED
    of = "its loss" if len(names) == 1 else "their losses"
    log.warning(
        "No output that is measured depends on %s, with these inputs: %s %s %s. Pin a scheme where "
        "the output is used elsewhere.",
        f"{named} and {others:,} more" if others > 0 else named,
        "its" if len(names) == 1 else "their",
        _GUESS,
        of,
    )

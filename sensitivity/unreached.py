"""Say which layers no gradient came to on the calibration sequences, and what stands for them."""

import logging
from collections import defaultdict
from collections.abc import Sequence

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
    of_tensor: dict[str, list[bool]] = defaultdict(list)  # of each expert, whether it was reached
    for layer in layers:
        reached = folder.read(layer, moments).reached
        if layer.expert is not None:
            of_tensor[layer.parameter].append(bool(reached))
            continue
        if reached.all():
            continue
        if layer.kind is not Kind.EXPERTS and around_number(layer) is None:
            unused.append(layer.name)
            continue
        is_guess = not folder.completed(layer, moments).reached.any()
        _warn_of_experts(layer.name, reached.flatten().tolist(), is_guess=is_guess)
    for name, experts in of_tensor.items():
        if not all(experts):
            _warn_of_experts(name, experts, is_guess=not any(experts))
    if unused:
        _warn_of_unused(unused)


def _warn_of_experts(name: str, reached: Sequence[bool], *, is_guess: bool) -> None:
    which = f"{reached.count(False)} of {len(reached)} experts of " if any(reached) else ""
    stands_in = f"the mean of {'the others' if which else 'the experts beside it'} stands in"
    if is_guess:
        stands_in = f"its {_GUESS} its loss"
    log.warning(
        "Calibration never reached %s%s: %s. Give text that makes the model use it.",
        which,
        name,
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

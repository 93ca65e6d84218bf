"""Seconds -> how many sequences to calibrate on."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from bitplan.calibration.sizes import Counts

log = logging.getLogger(__name__)

STEPS = (4, 8, 16, 32, 64, 128, 256, 512)
"""What a time limit chooses from."""


def within(
    limit_s: float,
    *,
    sequence_s: float,
    overhead_s: float,
    counts: Counts,
    steps: Sequence[int] = STEPS,
) -> Counts:
    """The counts with the most calibration sequences of `steps` that the limit has time for.

    Args:
        limit_s: seconds that measuring may take.
        sequence_s: seconds for each calibration sequence.
        overhead_s: seconds that all else takes, however many there are.
        counts: of the other sets, and the length.
        steps: what to choose from, the fewest first.

    Where even the fewest take longer they are chosen all the same, and the log says so.
    """
    fitting = [step for step in steps if overhead_s + step * sequence_s <= limit_s]
    chosen = fitting[-1] if fitting else steps[0]
    expected_s = overhead_s + chosen * sequence_s
    if fitting:
        log.info(
            "Time limit %.0f s: %d calibration sequences of %d tokens, about %.0f s.",
            limit_s,
            chosen,
            counts.length,
            expected_s,
        )
    else:
        log.warning(
            "The time limit is %.0f s, but with the fewest sequences, %d, measuring takes about "
            "%.0f s. Fewer schemes, or the quantizer rtn, take less.",
            limit_s,
            chosen,
            expected_s,
        )
    return replace(counts, calibration=chosen)

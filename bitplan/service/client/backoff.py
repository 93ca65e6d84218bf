"""How long to wait before a request is tried again."""

import random
from collections.abc import Iterator

FIRST_S, LONGEST_S = 0.1, 5.0
MOST_ASKED_S = 60.0
"""A service that asks for patience itself (Retry-After) gets so much of it."""


def pauses(patience_s: float) -> Iterator[float]:
    """Waits in seconds that double, up to 5 s; all together at most the patience.

    They are drawn at random between half of that and the whole, so that clients which a service
    lost at one moment do not all come back at another.
    """
    longest, waited = FIRST_S, 0.0
    while True:
        pause = longest * random.uniform(0.5, 1)
        if waited + pause > patience_s:
            return
        yield pause
        waited += pause
        longest = min(2 * longest, LONGEST_S)


def asked_pause(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header; None where it does not name any."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None

"""Progress of long work, told now and then."""

import time

from bitplan.progress import Progress


def told(what: str, every_s: float = 30.0) -> Progress:
    """Progress in a line now and then."""
    last = [time.monotonic()]

    def tell(stage: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > every_s:
            print(f"  {what}, {stage}: {done:,} of {total:,}", flush=True)
            last[0] = time.monotonic()

    return tell

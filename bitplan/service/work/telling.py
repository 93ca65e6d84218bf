"""What a job says of how far it is, as events: not too many, and never without the last."""

import re
import time
from dataclasses import dataclass
from typing import Any

from bitplan.service.records import Progress

EVERY_S = 0.25
"""Between events of progress, at least."""

_SHARE = 1 / 2000
"""Of the time that the job has run; so a long one makes some thousand events, not a million."""


@dataclass(kw_only=True)
class _Stage:
    """One stage: where and when it began, where it is, and what was said of it."""

    began_s: float
    first: int
    done: int
    remark: str = ""

    def left_s(self, total: int) -> float | None:
        """Seconds until it is done, at the pace so far."""
        if not self.first < self.done < total:
            return None
        pace_s = (time.monotonic() - self.began_s) / (self.done - self.first)
        return round(pace_s * (total - self.done), 1)


class Pace:
    """Progress of stages, which may take turns, as events: some of them, and the last."""

    def __init__(self) -> None:
        self._began_s = self._told_s = time.monotonic()
        self._stages: dict[str, _Stage] = {}
        self._pending: Progress | None = None

    def take(self, stage: str, done: int, total: int) -> None:
        """Note how far a stage is; one that is less far than it was has begun again."""
        known = self._stages.get(stage)
        if known is None or done < known.done:
            remark = known.remark if known else ""
            if known is None:
                self._told_s = 0.0  # a new one is told at once
            known = _Stage(began_s=time.monotonic(), first=done, done=done, remark=remark)
            self._stages[stage] = known
        known.done = done
        self._pending = Progress(
            stage=stage,
            done=done,
            total=total,
            remark=known.remark,
            seconds_left=known.left_s(total),
        )

    def remark(self, stage: str, text: str) -> bool:
        """Note a word on a stage; whether it is another than the last."""
        known = self._stages.setdefault(stage, _Stage(began_s=time.monotonic(), first=0, done=0))
        is_new, known.remark = text != known.remark, text
        return is_new

    def due(self, *, at_once: bool = False) -> Progress | None:
        """The progress that is to be told now, if any."""
        now = time.monotonic()
        wait_s = max(EVERY_S, (now - self._began_s) * _SHARE)
        if self._pending is None or not (at_once or now - self._told_s >= wait_s):
            return None
        self._told_s, told, self._pending = now, self._pending, None
        return told


def remark_data(stage: str, text: str) -> dict[str, Any]:
    """An event's data of a remark, with the numbers that its text tells.

    >>> remark_data("refine", "KL 0.02, uniform 1.5 times that")["uniform_kl"]
    0.03
    >>> remark_data("tune", "KL 0.0500 -> 0.0400")["kl"]
    0.04
    """
    data: dict[str, Any] = {"stage": stage, "text": text}
    found = re.match(rf"KL ({_NUMBER})(?: -> ({_NUMBER}))?", text)
    if found:
        kl = float(found[2] or found[1])
        data["kl"] = kl
        times = re.search(rf"uniform ({_NUMBER}) times", text)
        if times:
            data["uniform_kl"] = float(f"{kl * float(times[1]):.6g}")
    return data


_NUMBER = r"\d[\d.]*(?:e[+-]?\d+)?"

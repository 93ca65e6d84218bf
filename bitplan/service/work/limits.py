"""What a job may take of time, memory and disk, and what it does take."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bitplan.errors import InputError
from bitplan.service.records import Fault, Limits
from bitplan.service.settings import ServiceSettings

_DISK_EVERY_S = 1.0
_DISK_SHARE = 0.05
"""Of the time, at most, goes into adding up the sizes of files."""


def check_limits(limits: Limits, settings: ServiceSettings) -> None:
    """Raise `InputError` for more than the service allows."""
    for noun, unit, asked, most in (
        ("time", "s", limits.time_s, settings.time_limit_s),
        ("memory", "GB", limits.memory_gb, settings.memory_limit_gb),
        ("disk", "GB", limits.disk_gb, settings.disk_limit_gb),
    ):
        if asked is not None and most is not None and asked > most:
            raise InputError(
                f"The job asks for {asked:g} {unit} of {noun}, but this service allows {most:g}. "
                "Ask for less, or leave it out."
            )


def settled(limits: Limits, settings: ServiceSettings) -> Limits:
    """What a job asked for, but no more than the service allows; that where it asked nothing."""
    return Limits(
        time_s=_least(limits.time_s, settings.time_limit_s),
        memory_gb=_least(limits.memory_gb, settings.memory_limit_gb),
        disk_gb=_least(limits.disk_gb, settings.disk_limit_gb),
    )


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(kw_only=True)
class Watch:
    """Looks at what a job's process takes; `over` says what is too much, as a fault."""

    limits: Limits
    process: int
    folder: Path
    _next_disk_s: float = 0.0

    def over(self, ran_s: float) -> Fault | None:
        """The limit that the job is over, if any. `ran_s`: over all its attempts."""
        limits = self.limits
        if limits.time_s is not None and ran_s > limits.time_s:
            return _fault(
                "TimeLimitError",
                f"The job has run for {ran_s:,.0f} s; its limit is {limits.time_s:g} s.",
                "What was done is kept: retry it, or ask for more with limits.time_s",
            )
        if limits.memory_gb is not None:
            taken = memory_bytes(self.process)
            if taken > limits.memory_gb * 1e9:
                return _fault(
                    "MemoryLimitError",
                    f"The job took {taken / 1e9:.2f} GB of memory; its limit is "
                    f"{limits.memory_gb:g} GB.",
                    'Ask for more with limits.memory_gb, or set through to "blocks"',
                )
        now = time.monotonic()
        if limits.disk_gb is not None and now >= self._next_disk_s:
            taken = folder_bytes(self.folder)
            took_s = time.monotonic() - now
            self._next_disk_s = now + max(_DISK_EVERY_S, took_s / _DISK_SHARE)
            if taken > limits.disk_gb * 1e9:
                return _fault(
                    "DiskLimitError",
                    f"The job's work folder holds {taken / 1e9:.2f} GB; its limit is "
                    f"{limits.disk_gb:g} GB.",
                    "Ask for more with limits.disk_gb, or measure fewer schemes",
                )
        return None


def _fault(kind: str, what: str, advice: str) -> Fault:
    return Fault(kind=kind, message=f"{what} {advice}.", is_input=True)


def memory_bytes(process: int) -> int:
    """What a process and those that it started hold of memory; what they share counts once."""
    try:
        first = psutil.Process(process)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    if len(family) == 1:
        return _resident(first)
    return sum(map(_share, family))


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _share(process: psutil.Process) -> int:
    """Proportional, where the system tells it."""
    with contextlib.suppress(psutil.Error, AttributeError):
        return process.memory_full_info().pss
    return _resident(process)


def folder_bytes(folder: Path) -> int:
    """What a folder takes of the disk; files may come and go meanwhile."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total

"""Which estimator `auto` stands for: the best that disk, memory and time allow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

AUTO = "auto"

LADDER = ("gradient_covariance", "fisher_diagonal", "weight_error")
"""What `auto` chooses from, the best first: 3.0-bit plans of SmolLM2-135M by them, rendered alike,
have a held-out KL of 0.321, 0.331 and 0.833. The last reads weights alone and can always be had."""

DISK_SHARE = 0.5
"""Of the free disk that statistics may fill: rendered weights and hidden states need the rest."""

MEMORY_SHARE = 0.7
"""Of the machine's memory that may be held while statistics are gathered, as for a pass."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What gathering an estimator's statistics takes, or what there is to take.

    Args:
        disk_bytes: of all layers' statistics; or what is free.
        memory_bytes: held at a time; or the machine's, free or not.
        seconds: of measuring on the fewest sequences; or the time limit.
    """

    disk_bytes: int
    memory_bytes: int
    seconds: float = math.inf


def choose_estimator(
    takes: Mapping[str, Resources], there_is: Resources, *, reads_covariance: bool = False
) -> tuple[str, str]:
    """The estimator that `auto` stands for, and the reason in a sentence.

    Every model that can be measured has a backward pass (`bitplan.sensitivity.objective`), so what
    decides is whether there is room and time for what it gathers. `single_swaps`, the slow truth,
    is never chosen: it runs the model once for every layer and scheme, to rank them nearly as the
    first of `LADDER` does. It must be asked for by its name.

    Args:
        takes: by name, what each of `LADDER` takes but the last, which takes nothing.
        there_is: what there is on this machine; without a time limit, infinitely many seconds.
        reads_covariance: whether the quantizer reads what `gradient_covariance` does.

    >>> room = Resources(disk_bytes=100_000, memory_bytes=64_000)
    >>> choose_estimator(
    ...     {
    ...         "gradient_covariance": Resources(disk_bytes=60_000, memory_bytes=9_000, seconds=5),
    ...         "fisher_diagonal": Resources(disk_bytes=40_000, memory_bytes=6_000, seconds=13),
    ...     },
    ...     room,
    ... )[0]
    'fisher_diagonal'
    """
    first, *_, last = LADDER
    if reads_covariance:
        return first, "The quantizer reads the same covariances, so they cost nothing more."
    refused = []
    for name in LADDER[:-1]:
        lack = _lack(takes[name], there_is)
        if lack is None:
            return name, _sentence([*refused, f"{name} {_fit(takes[name], there_is)}"])
        refused.append(f"{name} {lack}")
    return last, _sentence([*refused, f"{last} reads the weights alone"])


def _lack(takes: Resources, there_is: Resources) -> str | None:
    """What there is too little of, if anything."""
    disk, memory = _room(there_is)
    if takes.disk_bytes > disk:
        return f"takes {takes.disk_bytes:,} bytes of disk, and statistics may fill {disk:,}"
    if takes.memory_bytes > memory:
        return f"holds {takes.memory_bytes:,} bytes in memory, and {memory:,} may be held"
    if takes.seconds > there_is.seconds:
        return (
            f"takes {takes.seconds:.3g} s on the fewest sequences, and {there_is.seconds:.3g} s is "
            "the limit"
        )
    return None


def _fit(takes: Resources, there_is: Resources) -> str:
    disk, memory = _room(there_is)
    fit = (
        f"takes {takes.disk_bytes:,} bytes of the {disk:,} of disk that statistics may fill and "
        f"holds {takes.memory_bytes:,} of the {memory:,} of memory that may be held"
    )
    if there_is.seconds < math.inf:
        fit += f", within the limit of {there_is.seconds:.3g} s"
    return fit


def _room(there_is: Resources) -> tuple[int, int]:
    return int(DISK_SHARE * there_is.disk_bytes), int(MEMORY_SHARE * there_is.memory_bytes)


def _sentence(parts: list[str]) -> str:
    return "; ".join(parts) + "."

"""Which engine does the work, and why."""

import re
from collections.abc import Callable

from bitplan.errors import InputError
from bitplan.memory import total_memory_bytes
from bitplan.sensitivity.engines.engine import AbstractEngine
from bitplan.sensitivity.engines.processes import Processes, cores
from bitplan.sensitivity.engines.ray import Ray, check_installed
from bitplan.sensitivity.engines.serial import Serial

ENGINES: dict[str, Callable[..., AbstractEngine]] = {
    "serial": Serial,
    "processes": Processes,
    "ray": Ray,
}
"""By name. `auto` is one of the first two, and an address of a Ray cluster a ray."""

AUTO = "auto"

WORTH_STARTING = 1_000_000_000
"""Weights times schemes to render, from which processes are worth their start. Each takes some five
seconds of a core to start, and GPTQ renders about ten million weights a second on one."""

WORTH_SHARING = 100_000_000_000
"""Weights times tokens of all sets that plans are measured on, from which processes are worth it: a
core forwards some fifty billion a second at best, and starting one takes it five."""

COPIES = 4
"""Float32 copies of a layer's size that rendering and judging it may hold at a time."""

SHARE_OF_MEMORY = 0.5
"""Of the machine's memory that processes may hold together."""


def get_engine(name: str, *, workers: int | None = None) -> AbstractEngine:
    """The engine of a name, or of the address of a Ray cluster.

    `workers`: processes, or tasks at a time; None: as many as there are cores. Raises `EngineError`
    for a ray that is not installed, `InputError` for an unknown name.
    """
    check_engine(name, workers)
    if _ADDRESS.fullmatch(name):
        return Ray(address=name, workers=workers)
    return ENGINES[name](workers=workers)


def check_engine(name: str, workers: int | None = None) -> None:
    """Refuse a name that `get_engine` would not know."""
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be 1 or more.")
    if name not in (AUTO, *ENGINES) and not _ADDRESS.fullmatch(name):
        known = ", ".join((AUTO, *ENGINES))
        raise InputError(
            f"There is no engine {name!r}. Choose one of: {known}, or give the address of a Ray "
            "cluster as ray://host:port."
        )
    if name == "ray" or _ADDRESS.fullmatch(name):
        check_installed()


def choose_engine(
    work: int, *, workers: int | None = None, largest: int = 0, memory_bytes: int | None = None
) -> tuple[str, str]:
    """The engine that `auto` stands for, and the reason in a sentence.

    `work` is the number of weights to render, times the schemes of each; `largest` the number of
    weights of the largest layer. `memory_bytes` is the machine's, free or not, unless it is given.

    >>> choose_engine(1_000_000, workers=8)
    ('serial', 'The work is done before 8 processes are started.')
    """
    count = workers or cores()
    if count == 1:
        return "serial", "There is one core to work on."
    if work < WORTH_STARTING:
        return "serial", f"The work is done before {count} processes are started."
    held = count * COPIES * 4 * largest
    if held > SHARE_OF_MEMORY * (memory_bytes or total_memory_bytes()):
        return (
            "serial",
            f"{count} processes may hold {held:,} bytes, more than memory has to spare.",
        )
    return "processes", f"{count} processes of one thread each share {work:,} weights to render."


def choose_workers(
    engine: str, *, workers: int | None, threads: int, work: int, count: int | None = None
) -> tuple[str, int | None, str]:
    """The engine that measures plans, how many workers it has, and the reason in a sentence.

    Where workers have as many threads as this process, more of them than that leaves cores for
    would only stand in each other's way. `work` is weights times tokens of a pass over all of them;
    `count` the cores, if not those that this process may use.

    >>> choose_workers("auto", workers=None, threads=8, work=10**12, count=8)[:2]
    ('serial', 1)
    >>> choose_workers("auto", workers=None, threads=1, work=10**12, count=8)[:2]
    ('processes', 8)
    """
    if engine not in (AUTO, "processes"):
        return engine, workers, "It was asked for."
    room = (count or cores()) // threads
    most = max(1, min(room, workers or room))
    if most == 1:
        return "serial", 1, f"{threads} threads each leave no cores for a second process."
    if engine == AUTO and work < WORTH_SHARING:
        return "serial", 1, f"The work is done before {most} processes are started."
    return "processes", most, f"{most} processes of {threads} threads each."


_ADDRESS = re.compile(r"(ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")

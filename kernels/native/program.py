"""Jobs that workers do together, one after another, without going back to Python between them.

A program is a row of jobs (see `job`) in phases: workers share each job of a phase by its counter,
and none begins the next phase before all are done with the last. One call from Python, and one
parallel region, do for a dozen products and what stands between them.
"""

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.job import Job, openmp, workers_for
from bitplan.kernels.native.memory import (
    arrive,
    ask_at,
    call_at,
    int64_at,
    pause,
    read_shared,
    write_shared,
)

ENTRY = 4
(FUNCTION, ARGUMENT, COUNTER_AT, IS_LAST) = range(ENTRY)

HEAD = 24
"""Numbers before the entries. Those that workers write have a line of the cache to themselves."""

(ENTRIES, IS_SHARED, TEAM_SIZE, YIELD) = range(4)
ARRIVED, ROUND = 8, 16

PATIENCE = 512
"""Times that a worker looks whether the others are done before it lets other threads run."""


class Program:
    """Jobs in phases, done as often as `run` is called.

    Args:
        phases: jobs that may be done beside each other, phase after phase.
        counters: of each of those jobs, the number of the field that is its counter.
    """

    def __init__(self, phases: Sequence[Sequence[tuple[Job, int]]]) -> None:
        self._jobs = [job for phase in phases for job, _ in phase]  # their addresses are used
        self.work = sum(job.work for job in self._jobs)
        numbers = [0] * HEAD
        numbers[ENTRIES] = len(self._jobs)
        for phase in phases:
            for at, (job, counter) in enumerate(phase):
                address, _ = job.fields.buffer_info()
                is_last = at == len(phase) - 1
                numbers += [job.function.address, address, address + 8 * counter, is_last]
        self._numbers = array("q", numbers)
        self._address, _ = self._numbers.buffer_info()
        self._function = worker()

    def run(self) -> None:
        """Do all jobs, with as many threads as their work is worth."""
        workers = workers_for(self.work)
        parallel = openmp() if workers > 1 else None
        if parallel is None:
            self._numbers[IS_SHARED] = 0
            self._function.ctypes(self._address)
            return
        self._numbers[IS_SHARED] = 1
        self._numbers[TEAM_SIZE], self._numbers[YIELD] = _asked()
        parallel(self._function.address, self._address, workers, 0)


@cache
def _asked() -> tuple[int, int]:
    """Addresses of what tells how many share a parallel region, and of what lets others run."""
    library = ctypes.CDLL(None)
    functions = library.omp_get_num_threads, library.sched_yield
    team_size, yield_ = (ctypes.cast(one, ctypes.c_void_p).value or 0 for one in functions)
    return team_size, yield_


@cache
def worker() -> Any:
    """What each worker does: its share of every job, in order."""

    stamp = STAMP

    @compiled()
    def work(address):
        _ = stamp
        head = int64_at(address, HEAD)
        # Fewer may have come than were asked for.
        team = ask_at(head[TEAM_SIZE]) if head[IS_SHARED] else 1
        entries = int64_at(address + 8 * HEAD, head[ENTRIES] * ENTRY)
        first = 0
        for at in range(head[ENTRIES]):
            call_at(entries[at * ENTRY + FUNCTION], entries[at * ENTRY + ARGUMENT])
            if not entries[at * ENTRY + IS_LAST]:
                continue
            round_ = read_shared(address + 8 * ROUND)
            if team == 1 or arrive(address + 8 * ARRIVED) == team - 1:
                _begin_again(entries, first, at + 1)
                write_shared(address + 8 * ARRIVED, 0)
                write_shared(address + 8 * ROUND, round_ + 1)
            else:
                _wait(address + 8 * ROUND, round_, head[YIELD])
            first = at + 1

    return work


@part
def _begin_again(entries, first, end):
    """Set the counters of some jobs to nothing, for the next time."""
    for at in range(first, end):
        int64_at(entries[at * ENTRY + COUNTER_AT], 1)[0] = 0


@part
def _wait(place, number, yield_):
    """Until there is another number at a place."""
    looks = 0
    while read_shared(place) == number:
        looks += 1
        pause()
        if looks % PATIENCE == 0:
            ask_at(yield_)

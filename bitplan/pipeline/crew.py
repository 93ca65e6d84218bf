"""Plans measured side by side, by processes that share the model's weights.

A copy of the model holds one plan at a time, and any number of processes look at it. A task is a
plan and as many of its sequences as go through the model at once in this process, with as many
threads as there are here: so each number is the same to the last bit, whoever computes it.
"""

import contextlib
import functools
import logging
import socket
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bitplan.evaluate import Divergence, Reference, batches, compare
from bitplan.files import temporary_name
from bitplan.formats import Packed
from bitplan.memory import room_bytes
from bitplan.models import rounded_caches, weight_of
from bitplan.pipeline.shared_model import NotShared, bytes_of, open_copy, share
from bitplan.progress import Progress
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity import AbstractEngine, choose_workers, get_engine, torch_threads

log = logging.getLogger(__name__)

MOST_COPIES = 4
"""Plans in memory at a time. Of one alone there are few batches where few tokens are enough."""

Assignment = Mapping[str, Scheme]


@dataclass(frozen=True, kw_only=True)
class BatchTask:
    """Sequences to measure under the plan that a copy of the model holds.

    `host` is where the copies are, `caches` the schemes of cached keys and values by name.
    """

    skeleton: Path
    copy: Path
    host: str
    threads: int
    caches: dict[str, Scheme]
    reference: Reference
    plan: int
    batch: int


def run_batch(task: BatchTask) -> tuple[int, int, Divergence | None]:
    """Plan, batch and what was measured; None where the model is not to be had."""
    model = None
    if task.host == socket.gethostname():
        with contextlib.suppress(OSError, ImportError, AttributeError):
            model = _opened(task.skeleton, task.copy)
    if model is None:
        return task.plan, task.batch, None
    with torch.no_grad(), torch_threads(task.threads), rounded_caches(model, task.caches):
        return task.plan, task.batch, compare(model, task.reference)


@functools.lru_cache(maxsize=MOST_COPIES)
def _opened(skeleton: Path, copy: Path) -> nn.Module:
    return open_copy(skeleton, copy)


class Crew:
    """Processes, and the copies of a model that they look at, until it is closed."""

    def __init__(
        self,
        engine: AbstractEngine,
        model: nn.Module,
        layers: Sequence[Layer],
        current: Mapping[str, Scheme | None],
        packed: Callable[[Layer, Scheme], Packed],
        folder: Path,
        *,
        copies: int = MOST_COPIES,
    ) -> None:
        """`current` are the schemes of the weights that the model has now, `packed` gives others.

        Raises `NotShared` for a model that other processes cannot map.
        """
        self.layers, self.packed = layers, packed
        key = uuid.uuid4().hex
        names = ["skeleton", *(f"copy-{copy}" for copy in range(copies))]
        paths = [temporary_name(folder / f"shared-{key}-{name}") for name in names]
        self._skeleton, *self._copies = paths
        self._stack = contextlib.ExitStack()
        for path in paths:
            self._stack.callback(path.unlink, missing_ok=True)
        try:
            share(model, self._skeleton, self._copies)
            self._models = [open_copy(self._skeleton, copy) for copy in self._copies]
            self._stack.enter_context(engine)
        except BaseException:
            self._stack.close()
            raise
        self._engine = engine
        self._current: list[dict[str, Scheme | None]] = [dict(current) for _ in range(copies)]

    def close(self) -> None:
        """Stop the processes and remove the copies."""
        self._models.clear()
        self._stack.close()

    def measure(
        self,
        assignments: Sequence[Assignment],
        reference: Reference,
        sequences: Sequence[int],
        progress: Progress,
    ) -> Iterator[Divergence | None]:
        """Of each plan, in order; None where a process could not have the model."""
        each = len(self._models)
        for start in range(0, len(assignments), each):
            part = assignments[start : start + each]
            for copy, assignment in enumerate(part):
                self._fill(copy, assignment)
            yield from self._measured(part, reference, sequences, progress)

    def _measured(
        self,
        assignments: Sequence[Assignment],
        reference: Reference,
        sequences: Sequence[int],
        progress: Progress,
    ) -> Iterator[Divergence | None]:
        every = [sequences[part] for part in batches(reference.inputs[list(sequences)])]
        found: list[list[Divergence | None]] = [[None] * len(every) for _ in assignments]
        total = len(assignments) * len(every)
        # Closed at once by an interrupt: what is under way is of plans that go on to change.
        with contextlib.closing(
            self._results(self._tasks(assignments, reference, every))
        ) as results:
            for done, (plan, batch, divergence) in enumerate(results):
                progress("evaluate", done, total)
                found[plan][batch] = divergence
        progress("evaluate", total, total)
        yield from (_joined(parts) for parts in found)

    def _results(
        self, tasks: Iterator[BatchTask]
    ) -> Generator[tuple[int, int, Divergence | None], None, None]:
        yield from self._engine.map(run_batch, tasks)

    def _tasks(
        self,
        assignments: Sequence[Assignment],
        reference: Reference,
        every: Sequence[Sequence[int]],
    ) -> Iterator[BatchTask]:
        weights = {layer.name for layer in self.layers}
        for plan, assignment in enumerate(assignments):
            for batch, sequences in enumerate(every):
                yield BatchTask(
                    skeleton=self._skeleton,
                    copy=self._copies[plan],
                    host=socket.gethostname(),
                    threads=torch.get_num_threads(),
                    caches={n: s for n, s in assignment.items() if n not in weights},
                    reference=reference.part(sequences),
                    plan=plan,
                    batch=batch,
                )

    @torch.no_grad()
    def _fill(self, copy: int, assignment: Assignment) -> None:
        """Give a copy of the model the weights that a plan says."""
        current = self._current[copy]
        for layer in self.layers:
            scheme = assignment[layer.name]
            if current[layer.name] != scheme:
                # An interrupt may come when the weight is written and the note of it is not.
                current[layer.name] = None
                weight = weight_of(self._models[copy], layer)
                weight.copy_(self.packed(layer, scheme).decode(weight.dtype))
                current[layer.name] = scheme


def _joined(parts: Sequence[Divergence | None]) -> Divergence | None:
    """What batches came to, one after the other; None where one of them came to nothing."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    nlls = [part.nll for part in known if part.nll is not None]
    return Divergence(
        kl=np.concatenate([part.kl for part in known]),
        nll=np.concatenate(nlls) if len(nlls) == len(known) else None,
    )


def crew_for(
    model: nn.Module,
    layers: Sequence[Layer],
    current: Mapping[str, Scheme | None],
    packed: Callable[[Layer, Scheme], Packed],
    folder: Path,
    *,
    engine: str,
    workers: int | None,
    tokens: int,
) -> Crew | None:
    """The processes that an engine's name and the number of workers ask for; None: this one alone.

    Each takes as many threads as torch has here, so there are as many as that leaves cores for.
    `tokens` are those of all sets that plans are measured on.
    """
    size = bytes_of(model)
    name, count, why = choose_workers(
        engine,
        workers=workers,
        threads=torch.get_num_threads(),
        work=tokens * sum(layer.parameters for layer in layers),
    )
    copies = min(MOST_COPIES, int(room_bytes() // max(1, size)))
    if name != "serial" and not copies:
        name, why = "serial", f"A copy of {size:,} bytes is more than memory has room for."
    if name != "serial":
        try:
            found = get_engine(name, workers=count)
            return Crew(found, model, layers, current, packed, folder, copies=copies)
        except NotShared as error:
            why = str(error)
    log.info("Plans are measured one after another: %s", why)
    return None

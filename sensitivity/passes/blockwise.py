"""Block by block: one block of a model's weights in memory, hidden states on disk."""

import contextlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.errors import InputError, ModelError
from bitplan.files import make_folder, read_text, write_text
from bitplan.models import eager_experts, wide_matmuls
from bitplan.models.chain import Call, Chain, find_chain
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer
from bitplan.sensitivity.objective import objective
from bitplan.sensitivity.passes.activations import Activations
from bitplan.sensitivity.passes.passes import AbstractPass, Sighting
from bitplan.sensitivity.watch import Seen, watch


@dataclass(kw_only=True)
class BlockWise(AbstractPass):
    """Forward through the blocks, keeping what goes into each; then back, each block run again.

    A block is run on all sequences before the next one is, and its weights, where they are mapped
    from files, are given back then. What the layers see is what they see in a pass through the
    whole model, bit for bit. `folder` keeps hidden states and gradients, each in its file: a pass
    that was stopped, however, goes on with the sequence and block at which it was. Two processes
    may be given one folder: the later one then works in a folder of its own beside it.
    """

    model: nn.Module
    tokens: Int[Tensor, "sequences length"]
    folder: Path
    labels: str = "data"
    progress: Progress = quiet
    _own: Path | None = None
    _calls: dict[int, list[Call]] = field(default_factory=dict)

    @property
    def tokens_each(self) -> int:
        """Tokens in one sequence."""
        return self.tokens.shape[1]

    @cached_property
    def chain(self) -> Chain:
        """The model's blocks. Raises `ModelError` for a model that is no chain of them."""
        path = self.folder / "chain.json"
        try:  # to find it takes a run through the whole model
            known = json.loads(read_text(path))
            return Chain(model=self.model, path=known["path"], in_tuples=tuple(known["in_tuples"]))
        except (InputError, ValueError, KeyError, TypeError):
            with self._watched(), torch.enable_grad():
                chain = find_chain(self.model, lambda: self._loss(0))
            write_text(path, json.dumps({"path": chain.path, "in_tuples": chain.in_tuples}))
            return chain

    @property
    def _hidden(self) -> Activations:
        folder = (self._own or self.folder) / "hidden"
        return Activations(folder=folder, sequences=len(self.tokens))

    @property
    def _gradients(self) -> Activations:
        folder = (self._own or self.folder) / "gradients"
        return Activations(folder=folder, sequences=len(self.tokens))

    def check(self, layers: Sequence[Layer]) -> None:
        """Raise `ModelError` for a model that cannot be run block by block."""
        for layer in layers:
            self._place(layer)

    def groups(self, layers: Sequence[Layer]) -> Generator[list[Layer], None, None]:
        """Those of each block, from the last to the first; then those before and after all."""
        if layers:
            with self._claimed():
                yield from self._groups(layers)

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        lock = self._lock()
        try:
            lock.acquire()
        except (Timeout, OSError):  # another process is at work in the folder, or just left it
            self._own = self.folder.with_name(f"{self.folder.name}-{os.getpid()}")
        try:
            yield
        finally:
            lock.release()
            if self._own is not None:
                shutil.rmtree(self._own, ignore_errors=True)
                self._own = None

    def _lock(self) -> FileLock:
        return FileLock(make_folder(self.folder) / "lock", timeout=0)

    def _groups(self, layers: Sequence[Layer]) -> Iterator[list[Layer]]:
        by_place: dict[int | None, list[Layer]] = defaultdict(list)
        for layer in layers:
            by_place[self._place(layer)].append(layer)
        count = len(self.chain.blocks)
        for index in reversed(range(count)):
            if by_place[index]:
                yield by_place[index]
                for boundary in range(index, count):
                    self._hidden.drop(boundary)
                    self._gradients.drop(boundary + 1)
        if by_place[None]:
            yield by_place[None]
        for boundary in range(count + 1):
            self._hidden.drop(boundary)
            self._gradients.drop(boundary)
        self._tell(2 * count + 1, 0)

    def run(self, group: Sequence[Layer], *, first: int = 0) -> Generator[Sighting, None, None]:
        """Send every sequence through the block that the group is in."""
        place = self._place(group[0])
        with self._watched():
            if place is None:
                self._descend(0)
                self._advance(len(self.chain.blocks))
            else:
                self._descend(place + 1)
                self._advance(place)
        seen: list[Seen] = []
        with self._watched(group, seen):
            for sequence in range(first, len(self.tokens)):
                if place is None:
                    is_finite = self._run_ends(sequence)
                else:
                    is_finite = self._back(place, sequence)
                yield sequence, list(seen) if is_finite else None
                seen.clear()
        self.chain.release(place)

    def close(self) -> None:
        """Forget the hidden states and the gradients, unless another process is at work on them."""
        self._calls.clear()
        with contextlib.suppress(Timeout, OSError), self._lock():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, layer: Layer) -> int | None:
        places = {self.chain.place(name) for name in (layer.name, *layer.tied)}
        if len(places) > 1:
            raise ModelError(
                f"{type(self.model).__name__} cannot be run block by block: {layer.name} is in "
                "several of its blocks. Run the whole model at once."
            )
        return places.pop()

    @contextmanager
    def _watched(
        self, group: Sequence[Layer] = (), seen: list[Seen] | None = None
    ) -> Iterator[None]:
        found = [] if seen is None else seen
        with eager_experts(self.model), watch(self.model, group, found.append):
            yield

    @torch.enable_grad()
    @wide_matmuls()
    def _advance(self, boundary: int) -> None:
        """Keep what is not kept of the hidden states at a boundary, and of those before it."""
        start = boundary
        while start and self._hidden.missing(start):
            start -= 1
        if start == 0:
            for sequence in self._hidden.missing(0):
                hidden, _ = self.chain.begin(lambda at=sequence: self._loss(at))
                if sequence == 0:
                    self._hidden.check_room(hidden, boundary + 3)
                self._hidden.put(0, sequence, hidden)
            self.chain.release()
        for index in range(start, boundary):
            for sequence in self._hidden.missing(index + 1):
                self._tell(index, sequence)
                # With a graph, as on the way back: without one torch may choose other kernels.
                hidden = self._hidden.get(index, sequence).requires_grad_()
                output = self.chain.block(index, hidden, self._call(index, sequence))
                self._hidden.put(index + 1, sequence, output)
            self.chain.release(index)

    def _descend(self, boundary: int) -> None:
        """Keep what is not kept of the gradients at a boundary, and of those after it."""
        last, top = len(self.chain.blocks), boundary
        while top < last and self._gradients.missing(top):
            top += 1
        if top == last and self._gradients.missing(last):
            self._advance(last)
            for sequence in self._gradients.missing(last):
                self._run_end(sequence)
            self.chain.release()
        for index in reversed(range(boundary, top)):
            self._advance(index)
            for sequence in self._gradients.missing(index):
                self._back(index, sequence)
            self.chain.release(index)

    @torch.enable_grad()
    @wide_matmuls()
    def _back(self, index: int, sequence: int) -> bool:
        """Run a block again, and back; tells whether the loss was finite."""
        blocks = len(self.chain.blocks)
        self._tell(2 * blocks - 1 - index, sequence)
        gradient = self._gradients.get(index + 1, sequence)
        if not gradient.numel():
            self._gradients.put(index, sequence, gradient)
            return False
        hidden = self._hidden.get(index, sequence).requires_grad_()
        self.chain.block(index, hidden, self._call(index, sequence)).backward(gradient)
        assert hidden.grad is not None
        self._gradients.put(index, sequence, hidden.grad)
        return True

    @torch.enable_grad()
    @wide_matmuls()
    def _run_end(self, sequence: int) -> bool:
        """Run what comes after the blocks, and back; tells whether the loss is finite."""
        last = len(self.chain.blocks)
        hidden = self._hidden.get(last, sequence).requires_grad_()
        loss = self.chain.end(lambda: self._loss(sequence), hidden)
        if not loss.isfinite():
            self._gradients.put(last, sequence, torch.empty(0))
            return False
        loss.backward()
        assert hidden.grad is not None
        self._gradients.put(last, sequence, hidden.grad)
        return True

    @torch.enable_grad()
    @wide_matmuls()
    def _run_ends(self, sequence: int) -> bool:
        """The same, and then back through what comes before the blocks."""
        self._tell(2 * len(self.chain.blocks), sequence)
        if not self._run_end(sequence):
            return False
        hidden = self.chain.prefix(lambda: self._loss(sequence))
        if hidden.requires_grad:
            hidden.backward(self._gradients.get(0, sequence))
        return True

    def _call(self, index: int, sequence: int) -> Call:
        """What a block is given beside its hidden state; kept once where sequences agree."""
        if sequence not in self._calls:
            _, calls = self.chain.begin(lambda: self._loss(sequence))
            known = self._calls.values()
            self._calls[sequence] = next((one for one in known if one == calls), calls)
        return self._calls[sequence][index]

    def _loss(self, sequence: int) -> Tensor:
        tokens = self.tokens[sequence : sequence + 1]
        return objective(self.model, tokens, labels=self.labels)

    def _tell(self, step: int, sequence: int) -> None:
        total = (2 * len(self.chain.blocks) + 1) * len(self.tokens)
        self.progress("statistics", step * len(self.tokens) + sequence, total)

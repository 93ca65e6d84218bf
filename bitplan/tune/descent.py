"""Numbers moved step by step, looked at now and then, and left where they were best."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.tune.numbers import Number, packed_weights
from bitplan.tune.state import State, split

SEQUENCES_A_STEP = 4
SEQUENCES_A_LOOK = 16
"""Sequences that a model is judged on after each epoch."""

PATIENCE = 3
"""Looks in a row that are no better than the best before: then it stops."""

SAVE_EVERY_S = 60.0


class Objective(Protocol):
    """What is lowered."""

    def look(self) -> float:
        """How large it is now, on what no gradient is taken of."""
        ...

    def gradient(self, chosen: list[int], into: list[Tensor]) -> None:
        """Add the gradient over some sequences to `into`, each number's by its unit."""
        ...


@dataclass(kw_only=True)
class Descent:
    """Adam, at a rate that falls to zero as half a cosine, over some epochs of `sequences`.

    `rate` gives the first one by what is to be lowered, as it is before.
    `told` is called with the steps that were taken, before each and at the end, and `looked` with
    all looks so far, after each.
    """

    numbers: list[Number]
    objective: Objective
    sequences: int
    epochs: float
    rate: Callable[[float], float]
    seed: int
    told: Callable[[int], None]
    looked: Callable[[list[float]], None]

    @property
    def steps(self) -> int:
        """How many there are."""
        return max(1, round(self.epochs * self._steps_an_epoch))

    @property
    def _batch(self) -> int:
        return min(SEQUENCES_A_STEP, self.sequences)

    @property
    def _steps_an_epoch(self) -> int:
        return self.sequences // self._batch

    def run(self, file: Path | None) -> State:
        """Go on from what is kept in the file, and leave the numbers where they were best."""
        size, device = count(self.numbers), device_of(self.numbers)
        state = State.load(file, size, device) if file else None
        state = state or State.begin(size, device)
        saved = time.monotonic()
        write(self.numbers, state.steps)
        while True:
            self.told(state.done)
            if self._is_time_to_look(state):
                state.look(self.objective.look())
                _save(state, file)
                self.looked(state.looks)
            if state.ended or state.done == self.steps or _is_out_of_patience(state.looks):
                break
            rate = self.rate(state.looks[0]) * self._share_at(state.done)
            state.step(self._gradient(state.done), rate)
            write(self.numbers, state.steps)
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(state, file)
                saved = time.monotonic()
        if not state.ended:
            state.ended = True
            _save(state, file)
        write(self.numbers, state.best)
        self.told(self.steps)
        return state

    def _is_time_to_look(self, state: State) -> bool:
        """Before the first step, after each epoch and at the end; once each."""
        whole, rest = divmod(state.done, self._steps_an_epoch)
        if rest and state.done < self.steps:
            return False
        looks_due = whole + 1 + (rest > 0)
        return len(state.looks) < looks_due

    def _share_at(self, step: int) -> float:
        return (1 + math.cos(math.pi * step / self.steps)) / 2

    def _sequences(self, step: int) -> list[int]:
        """Those of one step: all of them once in each epoch, in an order of its own."""
        epoch, turn = divmod(step, self._steps_an_epoch)
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.sequences, generator=generator).tolist()
        return order[turn * self._batch : (turn + 1) * self._batch]

    def _gradient(self, step: int) -> Float[Tensor, "numbers"]:
        total = torch.zeros(count(self.numbers), device=device_of(self.numbers))
        parts = split(total, [number.start for number in self.numbers])
        self.objective.gradient(self._sequences(step), parts)
        if not total.isfinite().all():
            raise ModelError(
                f"The gradients of step {step} are not finite. Load the model in a wider dtype: "
                "bfloat16 in place of float16, or float32."
            )
        return total


def device_of(numbers: list[Number]) -> torch.device:
    """Where they are."""
    return numbers[0].parameter.device if numbers else torch.device("cpu")


def count(numbers: list[Number]) -> int:
    """How many numbers there are in all tensors."""
    return sum(number.start.numel() for number in numbers)


def write(numbers: list[Number], steps: Float[Tensor, "numbers"]) -> None:
    """Move each of them as far as the steps say."""
    for number, part in zip(numbers, split(steps, [n.start for n in numbers]), strict=True):
        number.move(part)


def take_gradients(numbers: list[Number], into: list[Tensor]) -> None:
    """Add what a way back has left at the numbers, and clear it there."""
    for number, slope in zip(numbers, into, strict=True):
        found, number.parameter.grad = number.parameter.grad, None
        if found is not None:  # else an expert that no token reached
            slope += found.float() * number.unit


@contextmanager
def trained(model: nn.Module, numbers: list[Number]) -> Iterator[None]:
    """Within the block the numbers, and nothing else of the model, take gradients."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        for number in numbers:
            number.parameter.requires_grad_()
        yield
    finally:
        for number in numbers:
            number.parameter.grad = None
        for parameter, is_trained in before.items():
            parameter.requires_grad_(is_trained)


@contextmanager
def laid_out(model: nn.Module) -> Iterator[None]:
    """Within the block all weights hold their canonical tensors, which have derivatives."""
    before = {weight: weight.implementation for weight in packed_weights(model).values()}
    try:
        for weight in before:
            weight.lay_out("reference")
        yield
    finally:
        for weight, implementation in before.items():
            weight.lay_out(implementation)


def _save(state: State, file: Path | None) -> None:
    if file is not None:
        state.save(file)


def _is_out_of_patience(looks: list[float]) -> bool:
    return len(looks) - 1 - looks.index(min(looks)) >= PATIENCE

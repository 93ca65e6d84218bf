"""Scales, offsets, norms and biases tuned end to end on the KL to the reference, codes fixed.

Chen et al., 2024, "EfficientQAT", its second phase, with the reference's distributions in place of
the text's labels: no byte is added. Each number moves in steps of its own scale, by Adam, at a rate
that falls to zero as half a cosine.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bitplan.errors import InputError, ModelError
from bitplan.evaluate import Reference, batches, compare
from bitplan.models import eager_experts, read_outputs, total_kl, wide_matmuls
from bitplan.progress import Progress, quiet, remark
from bitplan.tune.numbers import Number, numbers_of, packed_weights
from bitplan.tune.recompute import recomputed
from bitplan.tune.state import State, split

RATE = 2e-3
"""The largest step. Less than a bfloat16 can tell apart: steps add up in float32."""

SEQUENCES_A_STEP = 4
SEQUENCES_A_LOOK = 16
"""Sequences that the model is judged on after each epoch."""

PATIENCE = 3
"""Looks in a row that are no better than the best before: then it stops."""

SAVE_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What tuning did: KL in nats per token on the sequences it is judged on, and steps taken."""

    before: float
    after: float
    steps: int

    @classmethod
    def of(cls, state: State) -> "Tuned":
        """Of the steps to the best look."""
        return cls(before=state.looks[0], after=min(state.looks), steps=state.done)


@torch.no_grad()
def tune(
    model: nn.Module,
    lessons: Reference,
    judged: Reference,
    *,
    epochs: float,
    rate: float = RATE,
    seed: int = 0,
    file: Path | None = None,
    progress: Progress = quiet,
) -> Tuned:
    """Tune a packed model in place, and leave it as it was best on `judged`.

    Args:
        model: packed; its scales, offsets, norms and biases move, codes and all else stay.
        lessons: what the reference says of the inputs that gradients are taken on.
        judged: what it says of others. After each epoch the model is judged on some of them.
        epochs: passes over the lessons.
        rate: of Adam, in units of each number's scale.
        seed: of the order of the sequences.
        file: where the state is kept; the same call goes on from there. None: nowhere.
        progress: told after each step.

    Raises:
        InputError: `epochs` or `rate` is not above zero, or nothing can be tuned.
        ModelError: outputs or gradients that are not finite.
    """
    if not (0 < epochs < math.inf and 0 < rate < math.inf):
        raise InputError(f"epochs is {epochs} and rate {rate}; both must be above zero.")
    with _laid_out(model):
        numbers = list(numbers_of(model))
        if not numbers:
            raise InputError(
                "There is nothing to tune: every layer is kept in full precision. Make a plan "
                "with a smaller budget."
            )
        tuner = _Tuner(model, numbers, lessons, judged, epochs=epochs, rate=rate, seed=seed)
        return tuner.run(file, progress)


def is_ended(file: Path) -> bool:
    """Whether an earlier `tune` came to its end."""
    state = State.load(file)
    return state is not None and state.ended


@torch.no_grad()
def restore(model: nn.Module, file: Path) -> Tuned | None:
    """Give a packed model what an earlier `tune` ended with; None where none did."""
    with _laid_out(model):
        numbers = list(numbers_of(model))
        state = State.load(file, _count(numbers), _device(numbers))
        if state is None or not state.ended:
            return None
        _write(numbers, state.best)
    return Tuned.of(state)


class _Tuner:
    def __init__(
        self,
        model: nn.Module,
        numbers: list[Number],
        lessons: Reference,
        judged: Reference,
        *,
        epochs: float,
        rate: float,
        seed: int,
    ) -> None:
        self.model, self.numbers = model, numbers
        self.lessons, self.judged = lessons, judged
        self.rate, self.seed = rate, seed
        self.device = _device(numbers)
        self.batch = min(SEQUENCES_A_STEP, len(lessons.inputs))
        self.steps_an_epoch = len(lessons.inputs) // self.batch
        self.steps = max(1, round(epochs * self.steps_an_epoch))

    def run(self, file: Path | None, progress: Progress) -> Tuned:
        count = _count(self.numbers)
        state = State.load(file, count, self.device) if file else None
        state = state or State.begin(count, self.device)
        saved = time.monotonic()
        _write(self.numbers, state.steps)
        while True:
            progress("tune", state.done, self.steps)
            if self._is_time_to_look(state):
                state.look(self._kl())
                self._save(state, file)
                remark(progress, "tune", f"KL {state.looks[0]:.4f} -> {min(state.looks):.4f}")
            if state.ended or state.done == self.steps or _is_out_of_patience(state.looks):
                break
            state.step(self._gradient(state.done), self._rate_at(state.done))
            _write(self.numbers, state.steps)
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save(state, file)
                saved = time.monotonic()
        if not state.ended:
            state.ended = True
            self._save(state, file)
        _write(self.numbers, state.best)
        progress("tune", self.steps, self.steps)
        return Tuned.of(state)

    def _kl(self) -> float:
        some = range(min(SEQUENCES_A_LOOK, len(self.judged.inputs)))
        kl = compare(self.model, self.judged, sequences=some).mean
        if not math.isfinite(kl):
            raise ModelError(
                "The packed model's outputs are not finite, so there is nothing to tune by. Make "
                "a plan with a larger budget, or load the model in bfloat16 or float32."
            )
        return kl

    def _is_time_to_look(self, state: State) -> bool:
        """Before the first step, after each epoch and at the end; once each."""
        whole, rest = divmod(state.done, self.steps_an_epoch)
        if rest and state.done < self.steps:
            return False
        looks_due = whole + 1 + (rest > 0)
        return len(state.looks) < looks_due

    def _save(self, state: State, file: Path | None) -> None:
        if file is not None:
            state.save(file)

    def _rate_at(self, step: int) -> float:
        return self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2

    def _sequences(self, step: int) -> list[int]:
        """Those of one step: all of them once in each epoch, in an order of its own."""
        epoch, turn = divmod(step, self.steps_an_epoch)
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(len(self.lessons.inputs), generator=generator).tolist()
        return order[turn * self.batch : (turn + 1) * self.batch]

    @contextmanager
    def _differentiated(self) -> Iterator[None]:
        with (
            torch.enable_grad(),
            _trained(self.model, self.numbers),
            wide_matmuls(),
            eager_experts(self.model),
            recomputed(self.model),
        ):
            yield

    def _gradient(self, step: int) -> Tensor:
        """Of the mean KL over one step's sequences, by each number's unit."""
        told, chosen = self.lessons.values(), self._sequences(step)
        total = torch.zeros(_count(self.numbers), device=self.device)
        parts = split(total, [number.start for number in self.numbers])
        positions = told.shape[1:-1].numel() * len(chosen)
        with self._differentiated():
            # Weights are decoded for each pass forward and back: few passes, of many tokens.
            for part in batches(self.lessons.inputs[chosen]):
                outputs = read_outputs(self.model, self.lessons.inputs[chosen[part]])
                (total_kl(outputs, told[chosen[part]]) / positions).backward()
                for number, slope in zip(self.numbers, parts, strict=True):
                    found, number.parameter.grad = number.parameter.grad, None
                    if found is not None:  # else an expert that no token reached
                        slope += found.float() * number.unit
        if not total.isfinite().all():
            raise ModelError(
                f"The gradients of step {step} are not finite. Load the model in a wider dtype: "
                "bfloat16 in place of float16, or float32."
            )
        return total


def _device(numbers: list[Number]) -> torch.device:
    return numbers[0].parameter.device if numbers else torch.device("cpu")


def _count(numbers: list[Number]) -> int:
    return sum(number.start.numel() for number in numbers)


def _write(numbers: list[Number], steps: Tensor) -> None:
    for number, part in zip(numbers, split(steps, [n.start for n in numbers]), strict=True):
        number.move(part)


def _is_out_of_patience(looks: list[float]) -> bool:
    return len(looks) - 1 - looks.index(min(looks)) >= PATIENCE


@contextmanager
def _trained(model: nn.Module, numbers: list[Number]) -> Iterator[None]:
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
        for parameter, trained in before.items():
            parameter.requires_grad_(trained)


@contextmanager
def _laid_out(model: nn.Module) -> Iterator[None]:
    """Within the block all weights hold their canonical tensors, which have derivatives."""
    before = {weight: weight.implementation for weight in packed_weights(model).values()}
    try:
        for weight in before:
            weight.lay_out("reference")
        yield
    finally:
        for weight, implementation in before.items():
            weight.lay_out(implementation)

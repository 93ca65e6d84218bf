"""Scales, offsets, norms and biases tuned end to end on the KL to the reference, codes fixed.

Chen et al., 2024, "EfficientQAT", its second phase, with the reference's distributions in place of
the text's labels: no byte is added. Each number moves in steps of its own scale, by Adam, at a rate
that falls to zero as half a cosine.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bitplan.errors import InputError, ModelError
from bitplan.evaluate import Reference, batches, compare
from bitplan.models import eager_experts, read_outputs, total_kl, wide_matmuls
from bitplan.progress import Progress, quiet, remark
from bitplan.tune.descent import (
    SEQUENCES_A_LOOK,
    Descent,
    count,
    device_of,
    laid_out,
    take_gradients,
    trained,
    write,
)
from bitplan.tune.numbers import Number, numbers_of
from bitplan.tune.recompute import recomputed
from bitplan.tune.state import State

RATE = 2e-3
"""The largest step. Less than a bfloat16 can tell apart: steps add up in float32."""

FAR, LEAST = 0.25, 1 / 8
"""Nats per token: nearer to the reference steps are smaller in proportion; and their least share.

Of SmolLM2-135M at 4 bits, 0.058 away, steps of 2e-3 make nothing better, those of 5e-4 do. Far
smaller ones add up to less than a bfloat16 can tell apart."""

STEPS = RATE, FAR, LEAST
"""What the size of steps follows from: a state that was kept of others is of another tuning."""


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

    @classmethod
    def read(cls, row: Tensor) -> "Tuned":
        """What `row` gave."""
        before, after, steps = row.tolist()
        return cls(before=before, after=after, steps=int(steps))

    def row(self) -> Tensor:
        """For a file of tensors."""
        return torch.tensor([self.before, self.after, self.steps], dtype=torch.float64)


@torch.no_grad()
def tune(
    model: nn.Module,
    lessons: Reference,
    judged: Reference,
    *,
    epochs: float,
    rate: float | None = None,
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
        rate: of Adam, in units of each number's scale; None: by the KL before.
        seed: of the order of the sequences.
        file: where the state is kept; the same call goes on from there. None: nowhere.
        progress: told after each step.

    Raises:
        InputError: `epochs` or `rate` is not above zero, or nothing can be tuned.
        ModelError: outputs or gradients that are not finite.
    """
    if not (0 < epochs < math.inf and (rate is None or 0 < rate < math.inf)):
        raise InputError(f"epochs is {epochs} and rate {rate}; both must be above zero.")
    with laid_out(model):
        numbers = list(numbers_of(model))
        if not numbers:
            raise InputError(
                "There is nothing to tune: every layer is kept in full precision. Make a plan "
                "with a smaller budget."
            )
        descent = Descent(
            numbers=numbers,
            objective=_Divergence(model, numbers, lessons, judged),
            sequences=len(lessons.inputs),
            epochs=epochs,
            rate=_rate_at if rate is None else lambda before: rate,
            seed=seed,
            told=lambda done: progress("tune", done, descent.steps),
            looked=lambda looks: remark(progress, "tune", f"KL {looks[0]:.4f} -> {min(looks):.4f}"),
        )
        return Tuned.of(descent.run(file))


def is_ended(file: Path) -> bool:
    """Whether an earlier `tune` came to its end."""
    state = State.load(file)
    return state is not None and state.ended


@torch.no_grad()
def restore(model: nn.Module, file: Path) -> Tuned | None:
    """Give a packed model what an earlier `tune` ended with; None where none did."""
    with laid_out(model):
        numbers = list(numbers_of(model))
        state = State.load(file, count(numbers), device_of(numbers))
        if state is None or not state.ended:
            return None
        write(numbers, state.best)
    return Tuned.of(state)


def _rate_at(before: float) -> float:
    """By how much there is to gain."""
    return RATE * min(1.0, max(LEAST, before / FAR))


class _Divergence:
    """The KL to the reference, in nats per token."""

    def __init__(
        self, model: nn.Module, numbers: list[Number], lessons: Reference, judged: Reference
    ) -> None:
        self.model, self.numbers = model, numbers
        self.lessons, self.judged = lessons, judged

    def look(self) -> float:
        """On some of the sequences that it is judged on."""
        some = range(min(SEQUENCES_A_LOOK, len(self.judged.inputs)))
        kl = compare(self.model, self.judged, sequences=some).mean
        if not math.isfinite(kl):
            raise ModelError(
                "The packed model's outputs are not finite, so there is nothing to tune by. Make "
                "a plan with a larger budget, or load the model in bfloat16 or float32."
            )
        return kl

    def gradient(self, chosen: list[int], into: list[Tensor]) -> None:
        """Of the mean over the positions of some lessons."""
        told = self.lessons.values()
        positions = told.shape[1:-1].numel() * len(chosen)
        with (
            torch.enable_grad(),
            trained(self.model, self.numbers),
            wide_matmuls(),
            eager_experts(self.model),
            recomputed(self.model),
        ):
            # Weights are decoded for each pass forward and back: few passes, of many tokens.
            for part in batches(self.lessons.inputs[chosen]):
                outputs = read_outputs(self.model, self.lessons.inputs[chosen[part]])
                (total_kl(outputs, told[chosen[part]]) / positions).backward()
                take_gradients(self.numbers, into)

"""Where tuning is: kept on disk, so that it goes on there and ends with the same bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.tensors import load_tensors, save_tensors

BETAS = (0.9, 0.95)
EPSILON = 1e-12
"""Of Adam. A group's gradient is tiny: the loss of a token over millions of groups."""


@dataclass(kw_only=True)
class State:
    """Steps that were taken, in units of each number, with Adam's two moments of the gradient.

    `best` is the steps at the best look so far, and `looks` the KL at each look: nats per token.
    `ended` says that there is nothing left to do.
    """

    done: int
    steps: Float[Tensor, "numbers"]
    mean: Float[Tensor, "numbers"]
    square: Float[Tensor, "numbers"]
    best: Float[Tensor, "numbers"]
    looks: list[float] = field(default_factory=list)
    ended: bool = False

    @classmethod
    def begin(cls, count: int, device: torch.device) -> "State":
        """Nothing moved yet."""
        mean, square, steps, best = (torch.zeros(count, device=device) for _ in range(4))
        return cls(done=0, steps=steps, mean=mean, square=square, best=best)

    @classmethod
    def load(
        cls, path: Path, count: int | None = None, device: torch.device | None = None
    ) -> "State | None":
        """What `save` wrote, of as many numbers; None where there is nothing."""
        found = load_tensors(path)
        if found is None or len(found["steps"]) != (count or len(found["steps"])):
            return None
        names = ("steps", "mean", "square", "best")
        parts = {name: found[name].to(device, copy=True) for name in names}
        return cls(
            done=int(found["done"]),
            looks=found["looks"].tolist(),
            ended=bool(found["ended"]),
            **parts,
        )

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        tensors = {
            "done": torch.tensor(self.done),
            "steps": self.steps,
            "mean": self.mean,
            "square": self.square,
            "best": self.best,
            "looks": torch.tensor(self.looks, dtype=torch.float64),
            "ended": torch.tensor(self.ended),
        }
        save_tensors(path, {name: tensor.cpu() for name, tensor in tensors.items()})

    def step(self, gradient: Float[Tensor, "numbers"], rate: float) -> None:
        """One step of Adam (Kingma and Ba, 2015, algorithm 1)."""
        first, second = BETAS
        self.done += 1
        self.mean.lerp_(gradient, 1 - first)
        self.square.lerp_(gradient.square(), 1 - second)
        mean = self.mean / (1 - first**self.done)
        root = (self.square / (1 - second**self.done)).sqrt_().add_(EPSILON)
        self.steps.addcdiv_(mean, root, value=-rate)

    def look(self, kl: float) -> None:
        """Note the KL where it is now; the first look is before any step."""
        if kl < min(self.looks, default=float("inf")):
            self.best = self.steps.clone()
        self.looks.append(kl)


def split(flat: Float[Tensor, "numbers"], like: Sequence[Tensor]) -> list[Tensor]:
    """The flat vector as tensors of the shapes of `like`."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]

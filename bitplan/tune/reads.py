"""What the linears of a block read: the mean and the size of each channel."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.models import Group


@dataclass(frozen=True, kw_only=True)
class Reads:
    """Weighted means over tokens, of the channels that the readers of one group share."""

    mean: Float[Tensor, "made"]
    square: Float[Tensor, "made"]

    @property
    def deviation(self) -> Float[Tensor, "made"]:
        """From the mean: the root of its mean square."""
        return (self.square - self.mean.square()).clamp_min(0).sqrt()


@contextmanager
def seen(
    model: nn.Module, groups: Sequence[Group], matters: Float[Tensor, "sequences *positions"]
) -> Iterator[dict[str, Reads]]:
    """What the readers of each group were given within the block, by its maker, when it is left.

    `matters` is the weight of each token; all sequences must have gone through, in order.
    """
    watches = {group.maker: _Watch(group, matters) for group in groups}
    found: dict[str, Reads] = {}
    with ExitStack() as stack:
        for group in groups:
            reader = model.get_submodule(group.readers[0])
            hook = reader.register_forward_pre_hook(watches[group.maker].see)
            stack.callback(hook.remove)
        yield found
    found |= {maker: watch.reads() for maker, watch in watches.items()}


class _Watch:
    def __init__(self, group: Group, matters: Tensor) -> None:
        self.group, self.matters, self.done = group, matters, 0
        self.sums: list[Tensor] = []

    def see(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0].detach()
        weights = self.matters[self.done : self.done + len(given)].reshape(1, -1).to(given.device)
        self.done += len(given)
        rows = given.reshape(-1, given.shape[-1]).float()
        self.sums.append(torch.cat([weights @ rows, weights @ rows.square()]).double())

    def reads(self) -> Reads:
        assert self.done == len(self.matters)
        both = (
            torch.stack(self.sums).sum(0).div_(self.matters.double().sum().clamp_min(1e-38)).float()
        )
        if self.group.copies > 1:
            assert self.group.head is not None
            both = both.reshape(2, -1, self.group.copies, self.group.head).mean(2).flatten(1)
        mean, square = both
        return Reads(mean=mean, square=square)

"""Blocks that keep only what they were given, and compute the rest again on the way back.

Chen et al., 2016, "Training deep nets with sublinear memory cost". It takes a third more time, so
it is done only where what all blocks would keep is more than its share of the memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from bitplan.memory import room_bytes
from bitplan.models import blocks_of, replaced


@contextmanager
def recomputed(model: nn.Module, *, room: float | None = None) -> Iterator[None]:
    """Within the block, the blocks of a model keep no more than `room` bytes between them.

    `room` is `bitplan.memory.room_bytes` by default. What the first block keeps, in its first call,
    says what all would.
    """
    blocks = blocks_of(model)
    keeper = _Keeper(blocks=len(blocks), room=room_bytes() if room is None else room)
    with replaced(blocks, keeper.run):
        yield


class _Keeper:
    def __init__(self, *, blocks: int, room: float) -> None:
        self.blocks, self.room = blocks, room
        self.recomputes: bool | None = None  # None: not known yet

    def run(self, index: int, forward: Any, args: Any, kwargs: Any) -> Any:
        """Run one block, as `replaced` asks."""
        del index
        if self.recomputes:
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        if self.recomputes is False:
            return forward(*args, **kwargs)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = forward(*args, **kwargs)
        self.recomputes = self.blocks * sum(kept.values()) > self.room
        return output

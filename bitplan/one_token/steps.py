"""Which blocks take a token in two calls, and when."""

import copy
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bitplan.one_token.families import FAMILIES

VECTORS = 8
"""Sequences at most; for more, decoded rows and torch's matmuls are quicker."""

DTYPES = (torch.bfloat16, torch.float32)
READ = {"attention_mask", "past_key_values", "position_embeddings"}
"""What is read of that which a block is given by name."""

HARMLESS = {
    "cache_position",
    "logits_to_keep",
    "num_items_in_batch",
    "position_ids",
    "return_dict",
    "use_cache",
}
"""What it may be given beside."""


def step_by_step(model: nn.Module) -> nn.Module:
    """Let the blocks of a packed model take single tokens in two calls, wherever they can."""
    shared = Shared()
    for module in model.modules():
        is_known = type(module).__name__ in FAMILIES
        if not is_known or not type(module).__module__.startswith("transformers."):
            continue
        if "forward" not in module.__dict__:  # else it is ours already, or another's
            module.forward = OneToken(module, shared)
    return model


@dataclass
class Shared:
    """What the blocks of a model have together: memory, whose turn it is, and whether it works."""

    memory: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)
    works: dict[Any, bool] = field(default_factory=dict)
    """Whether each kind of block, by its shape, gave what transformers gives."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return memo.setdefault(id(self), Shared())

    def __reduce__(self) -> Any:
        return Shared, ()


class OneToken:
    """The forward of a block, in two calls where that can be."""

    def __init__(self, block: nn.Module, shared: Shared) -> None:
        self._block, self._shared, self._kind = block, shared, type(block)
        self._parts: Any = None  # of `Parts`, when it is first given a token
        self._is_looked_at = False  # whether all it holds is what it was, since the last prompt

    def __deepcopy__(self, memo: dict[int, Any]) -> "OneToken":
        return OneToken(copy.deepcopy(self._block, memo), copy.deepcopy(self._shared, memo))

    def __reduce__(self) -> Any:
        return OneToken, (self._block, self._shared)

    def __call__(self, hidden_states: Tensor, *others: Any, **given: Any) -> Tensor:
        """As transformers' block is called."""
        positions = given.get("position_embeddings")
        if (
            not torch.compiler.is_compiling()
            and hidden_states.dim() == 3
            and hidden_states.shape[1] == 1
            and positions is not None
            and not others
            and not (given.keys() - READ - HARMLESS)
        ):
            mask, cache = given.get("attention_mask"), given.get("past_key_values")
            found = self._take(hidden_states, mask, cache, positions)
            if found is not None:
                self._is_looked_at = True
                return found
        self._is_looked_at = False
        return type(self._block).forward(self._block, hidden_states, *others, **given)

    def _take(
        self,
        hidden: Tensor,  # [batch, 1, hidden]
        mask: Tensor | None,
        cache: Any,
        positions: tuple[Tensor, Tensor],
    ) -> Tensor | None:
        """The block's output, or None where transformers' own has to find it."""
        shared = self._shared
        if False in shared.works.values() or not _are_plain(hidden, mask, positions):
            return None
        if type(self._block) is not self._kind:  # another has made it one of theirs
            return None
        if not shared.lock.acquire(blocking=False):  # another thread is at it
            return None
        try:
            parts, thorough = self._parts, not self._is_looked_at
            if parts is None or not parts.are_in_place(thorough=thorough):
                # Imported here, for compiled loops take half a second to import.
                from bitplan.one_token.parts import Parts

                self._parts = Parts(self._block)
            made = self._parts.programs(hidden, shared.memory)
            if made is None or not self._parts.are_alone():
                return None
            if made.shape not in shared.works:
                from bitplan.one_token.trial import agree

                works = agree(self._block, self._parts, made, hidden, positions)
                shared.works[made.shape] = works
            if not shared.works[made.shape]:
                return None
            return self._parts.run(made, hidden, mask, cache, positions)
        finally:
            shared.lock.release()


def _are_plain(hidden: Tensor, mask: Tensor | None, positions: tuple[Tensor, Tensor]) -> bool:
    """Whether these are tensors whose memory may be read, with nobody watching."""
    if type(hidden) is not Tensor or torch.is_grad_enabled():
        return False
    if not hidden.is_cpu or not hidden.is_contiguous() or hidden.dtype not in DTYPES:
        return False
    batch = len(hidden)
    if batch > VECTORS or torch._C._get_tracing_state() is not None:
        return False
    if torch.is_autocast_enabled("cpu"):  # products are then of another dtype than the model
        return False
    of_positions = positions[0].dtype
    for one in positions:
        if one.dtype != of_positions or not one.is_contiguous() or len(one) not in (1, batch):
            return False
    if of_positions not in (hidden.dtype, torch.float32):
        return False
    return mask is None or (
        type(mask) is Tensor  # FlexAttention's is none
        and mask.is_cpu
        and mask.dtype in (torch.bool, hidden.dtype)
        and mask.dim() == 4
        and mask.shape[0] in (1, batch)
        and mask.shape[1] == mask.shape[2] == 1
        and mask.stride(-1) == 1
    )

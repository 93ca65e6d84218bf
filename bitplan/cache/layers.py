"""Keys and values of one attention module, as a layer of a transformers cache."""

from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from bitplan.cache.rows import PackedRows
from bitplan.errors import InputError
from bitplan.formats import rows_of, states_of
from bitplan.schema import Scheme

Pair: TypeAlias = tuple[Scheme, Scheme]
Packs: TypeAlias = tuple[PackedRows, PackedRows]
"""Of keys and of values."""


class PackedLayer(CacheLayerMixin):
    """Keys and values of one attention module."""

    is_sliding = False

    def __init__(self, schemes: Pair, context: int) -> None:
        super().__init__()
        self.packed: Packs = _packs(schemes, context)
        self.seen = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(rows.nbytes for rows in self.packed)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note what comes; storage is made when it is needed."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "batch heads tokens dim"],
        value_states: Float[Tensor, "batch heads tokens dim"],
        *args: Any,
        **keywords: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens; all that there are, as stored."""
        self.store(key_states, value_states)
        heads, dtype = key_states.shape[1], key_states.dtype
        keys, values = (states_of(rows.read(dtype), heads) for rows in self.packed)
        self.forget()
        return keys, values

    def store(
        self,
        key_states: Float[Tensor, "batch heads tokens dim"],
        value_states: Float[Tensor, "batch heads tokens dim"],
    ) -> None:
        """Store new tokens; nothing is forgotten yet."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.seen += key_states.shape[2]
        for rows, states in zip(self.packed, (key_states, value_states), strict=True):
            rows.append(rows_of(states))

    def is_attended(self, like: Float[Tensor, "batch heads tokens dim"]) -> bool:
        """Whether compiled loops attend to it as it is packed."""
        return like.shape[-1] % 16 == 0 and all(rows.has_loops(like) for rows in self.packed)

    def forget(self) -> None:
        """Drop what no later token attends to."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what the next tokens attend to."""
        return self.packed[0].length + query_length, self.seen - self.packed[0].length

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.seen

    def get_max_length(self) -> int:
        """There is none."""
        return -1

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` can put it back as it was."""
        return True

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens: their number, negative, as transformers gives it."""
        if tokens_to_remove == 0:
            return  # every candidate of assisted decoding was right
        if tokens_to_remove > 0 or not self.is_croppable:
            raise InputError(
                f"A packed cache cannot be cropped by {tokens_to_remove} after {self.seen} tokens. "
                "Give a negative number of tokens, within the window if there is one."
            )
        if self.is_initialized:
            for rows in self.packed:
                rows.keep(slice(0, max(rows.length + tokens_to_remove, 0)))
            self.seen = max(self.seen + tokens_to_remove, 0)

    def reset(self) -> None:
        """Forget everything."""
        keys, values = self.packed
        self.packed = _packs((keys.scheme, values.scheme), keys.context)
        self.seen = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The sequences that beam search goes on with."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the sequences."""
        for rows in self.packed:
            rows.over_batch(lambda tensor: tensor[indices.to(tensor.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        for rows in self.packed:
            rows.over_batch(lambda tensor: tensor.repeat_interleave(repeats, dim=0))


class PackedSlidingLayer(PackedLayer):
    """Keys and values of an attention module that reads the last `window` tokens.

    One less is kept: the newest comes with the query.
    """

    is_sliding = True

    def __init__(self, schemes: Pair, context: int, window: int) -> None:
        self.kept = max(window - 1, 1)
        self.sliding_window = window
        super().__init__(schemes, min(context, self.kept))

    def forget(self) -> None:
        """Keep one token less than the window has."""
        if self.packed[0].length > self.kept:
            for rows in self.packed:
                rows.keep(slice(-self.kept, None))

    def get_max_length(self) -> int:
        """The window."""
        return self.sliding_window

    @property
    def is_croppable(self) -> bool:
        """Whether no token was forgotten yet."""
        return self.seen == self.packed[0].length


def _packs(schemes: Pair, context: int) -> Packs:
    """Room for the rows of keys and of values."""
    keys, values = schemes
    return PackedRows(keys, context), PackedRows(values, context)

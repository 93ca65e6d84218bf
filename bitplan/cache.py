"""A cache of packed keys and values: a transformers cache in the schemes of a plan.

What attention reads is what is stored, the newest token included, so that one pass over a prompt
and a token at a time give the same, and so does rounding in a forward pass without a cache.
"""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicSlidingWindowLayer

from bitplan.errors import InputError
from bitplan.formats import Packed, encode_rows, rows_of, states_of
from bitplan.schema import Scheme

CHUNK = 256
"""Tokens by which storage grows; up to a plan's context it never exceeds that."""

Pair = tuple[Scheme, Scheme]
"""Of keys and of values."""


class PackedRows:
    """Rows of one scheme, a token each; those of the newest tokens lie last.

    `tensors` [batch, capacity, ...] are those of `Packed`, filled up to `length`.
    """

    def __init__(self, scheme: Scheme, context: int) -> None:
        self.scheme, self.context = scheme, context
        self.tensors: dict[str, Tensor] = {}
        self.length = self.width = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, what is not filled yet included."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def append(self, rows: Float[Tensor, "batch tokens width"]) -> None:
        """Round and store the rows of new tokens."""
        self.width = rows.shape[-1]
        packed = encode_rows(rows, self.scheme).tensors
        start, self.length = self.length, self.length + rows.shape[1]
        self._make_room(packed)
        for name, tensor in packed.items():
            self.tensors[name][:, start : self.length] = tensor

    def read(self, dtype: torch.dtype) -> Float[Tensor, "batch tokens width"]:
        """All rows, as stored."""
        tensors = {name: tensor[:, : self.length] for name, tensor in self.tensors.items()}
        batch = next(iter(tensors.values())).shape[0]
        shape = (batch, self.length, self.width)
        return Packed(scheme=self.scheme, shape=shape, tensors=tensors).decode(dtype)

    def keep(self, tokens: slice) -> None:
        """Forget all but some of the tokens; storage shrinks to what it needs."""
        kept = {name: t[:, : self.length][:, tokens] for name, t in self.tensors.items()}
        self.tensors = {}
        self.length = next(iter(kept.values())).shape[1]
        self._make_room(kept)
        for name, tensor in kept.items():
            self.tensors[name][:, : self.length] = tensor

    def over_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the sequences that there are."""
        self.tensors = {name: change(tensor) for name, tensor in self.tensors.items()}

    def _make_room(self, like: Mapping[str, Tensor]) -> None:
        capacity = -(-self.length // CHUNK) * CHUNK
        if self.length <= self.context:
            capacity = min(capacity, self.context)
        for name, tensor in like.items():
            old = self.tensors.get(name)
            if old is None or old.shape[1] < self.length:
                grown = tensor.new_zeros(tensor.shape[0], capacity, *tensor.shape[2:])
                if old is not None:
                    grown[:, : old.shape[1]] = old
                self.tensors[name] = grown


class PackedLayer(CacheLayerMixin):
    """Keys and values of one attention module."""

    is_sliding = False

    def __init__(self, schemes: Pair, context: int) -> None:
        super().__init__()
        self.packed = tuple(PackedRows(scheme, context) for scheme in schemes)
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
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.seen += key_states.shape[2]
        read = []
        for rows, states in zip(self.packed, (key_states, value_states), strict=True):
            rows.append(rows_of(states))
            read.append(states_of(rows.read(states.dtype), states.shape[1]))
        self._forget()
        return read[0], read[1]

    def _forget(self) -> None:
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
        if tokens_to_remove > 0 or not self.is_croppable:
            raise InputError(
                f"A packed cache cannot be cropped by {tokens_to_remove} after {self.seen} tokens. "
                "Give a negative number of tokens, within the window if there is one."
            )
        if tokens_to_remove and self.is_initialized:
            for rows in self.packed:
                rows.keep(slice(0, max(rows.length + tokens_to_remove, 0)))
            self.seen = max(self.seen + tokens_to_remove, 0)

    def reset(self) -> None:
        """Forget everything."""
        self.packed = tuple(PackedRows(rows.scheme, rows.context) for rows in self.packed)
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

    def offload(self) -> None:
        """Move to the CPU."""
        self._move("cpu")

    def prefetch(self) -> None:
        """Move back."""
        if self.is_initialized:
            self._move(self.device)

    def _move(self, device: Any) -> None:
        for rows in self.packed:
            rows.over_batch(lambda tensor: tensor.to(device, non_blocking=True))


class PackedSlidingLayer(PackedLayer):
    """Keys and values of an attention module that reads the last `window` tokens.

    One less is kept: the newest comes with the query.
    """

    is_sliding = True

    def __init__(self, schemes: Pair, context: int, window: int) -> None:
        self.kept = max(window - 1, 1)
        self.sliding_window = window
        super().__init__(schemes, min(context, self.kept))

    def _forget(self) -> None:
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


class PackedCache(DynamicCache):
    """A cache whose attention layers are packed; what is no attention is as in `DynamicCache`.

    Args:
        config: the model's.
        schemes: of keys and values, by layer of the cache; others stay as they are.
        context: tokens that storage is made for; it grows beyond when it must.
    """

    def __init__(self, config: Any, schemes: Mapping[int, Pair], context: int) -> None:
        super().__init__(config=config)
        for index, pair in schemes.items():
            plain = self.layers[index]
            if isinstance(plain, DynamicSlidingWindowLayer):
                window = int(plain.sliding_window)
                self.layers[index] = PackedSlidingLayer(pair, context, window)
            else:
                self.layers[index] = PackedLayer(pair, context)

    @property
    def nbytes(self) -> int:
        """Bytes of what is packed."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, PackedLayer))


def pack_caches(model: nn.Module, schemes: Mapping[str, Scheme], *, context: int) -> nn.Module:
    """Let a model generate with a packed cache; `new_cache` of the model makes one.

    `schemes` are by name: the path of an attention module, with `.keys` or `.values`.
    """
    changed: Any = model
    paths = [name.removesuffix(".keys") for name in schemes if name.endswith(".keys")]
    changed.cache_schemes = {
        _index(model, path): (schemes[f"{path}.keys"], schemes[f"{path}.values"]) for path in paths
    }
    changed.cache_context = context
    # Bound methods, so that a copy of the model has its own.
    changed.new_cache = MethodType(_new_cache, model)
    changed.generate = MethodType(_generate, model)
    return model


def _index(model: nn.Module, path: str) -> int:
    module: Any = model.get_submodule(path)
    return module.layer_idx


def _new_cache(model: Any) -> PackedCache:
    config = model.config.get_text_config(decoder=True)
    return PackedCache(config, model.cache_schemes, model.cache_context)


def _generate(model: Any, *args: Any, **keywords: Any) -> Any:
    """`generate` with a packed cache, unless another cache, or none, is asked for."""
    given = args[1] if len(args) > 1 else keywords.get("generation_config")
    settings = given or model.generation_config
    use_cache = keywords.get("use_cache", settings.use_cache)
    another = keywords.get("cache_implementation", settings.cache_implementation)
    if keywords.get("past_key_values") is None and another is None and use_cache is not False:
        keywords["past_key_values"] = model.new_cache()
    return type(model).generate(model, *args, **keywords)

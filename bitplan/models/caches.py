"""The keys and values that a model caches: which, how large, and a way to see and change them.

A cache's `update` is the one place that every attention module hands its keys and values to, after
rotary embedding and normalization, and reads them back from. So what is to be seen is a cache.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from bitplan.errors import InputError
from bitplan.formats import TORCH_DTYPES, round_rows, rows_of, states_of
from bitplan.schema import Kind, Layer, Scheme

Hook: TypeAlias = Callable[[str, Float[Tensor, "batch tokens width"]], Tensor]
"""(name of the cached keys or values, their rows) -> the rows that attention reads"""


@dataclass(frozen=True, kw_only=True)
class Cached:
    """Keys or values of one attention module."""

    layer: Layer
    head_dim: int


def find_caches(model: nn.Module, *, context: int, batch: int = 1) -> tuple[Cached, ...]:
    """What a model caches for `batch` sequences of `context` tokens, keys before values.

    A layer that attends to a window keeps one token less than the window at most: the newest is
    not read from the cache. Empty for a model without such a cache, see `why_no_cache`. Raises
    `InputError` for a context that is longer than the model's.
    """
    if why_no_cache(model) is not None:
        return ()
    config = _text_config(model)
    _check_context(config, context)
    modules = _attention_modules(model)
    found = []
    for index, kept in enumerate(DynamicCache(config=config).layers):
        if type(kept) not in _PACKABLE or index not in modules:
            continue
        window = getattr(kept, "sliding_window", None)
        tokens = context if window is None else min(context, max(window - 1, 1))
        for kind, (heads, dim) in _heads(_config_of_layer(config, index)).items():
            layer = Layer(
                name=f"{modules[index]}.{kind}",
                kind=kind,
                shape=(batch * tokens, heads * dim),
                block=index,
            )
            found.append(Cached(layer=layer, head_dim=dim))
    return tuple(found)


def why_no_cache(model: Any) -> str | None:
    """One sentence on why a model has no rows for a cache; None where it has."""
    name = type(model).__name__
    if not (hasattr(model, "can_generate") and model.can_generate()):
        return f"{name} does not generate, so it caches no keys and values."
    if model.config.is_encoder_decoder:
        return f"{name} caches its encoder's output too, which bitplan does not plan yet."
    layers = DynamicCache(config=_text_config(model)).layers
    if not any(isinstance(layer, CacheLayerMixin) for layer in layers):
        return (
            f"{name} keeps a state of one size, however long the text: there is no cache to plan."
        )
    if not any(type(layer) in _PACKABLE for layer in layers):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in layers}))
        return f"{name} keeps its cache in {kinds}, which bitplan does not pack yet."
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return f"{name} takes no cache of keys and values: there is none to plan."
    if not isinstance(getattr(_text_config(model), "num_attention_heads", None), int):
        return f"{name} has a config that does not say how many attention heads there are."
    if not _attention_modules(model):
        return f"{name} has no attention modules that say which layer of the cache is theirs."
    return None


@contextmanager
def hooked_caches(model: nn.Module, hook: Hook) -> Iterator[None]:
    """Hand all keys and values to `hook` within the block, as they are cached, in every forward.

    Nothing is kept from one forward pass to the next, so each must be of whole sequences.
    """
    modules = _attention_modules(model)
    config = _text_config(model)

    def with_cache(_: nn.Module, args: tuple, keywords: dict[str, Any]) -> Any:
        cache = DynamicCache(config=config)
        for index, kept in enumerate(cache.layers):
            if type(kept) in _PACKABLE and index in modules:
                cache.layers[index] = _HookedLayer(partial(_call, hook, modules[index]))
        return args, keywords | {"past_key_values": cache, "use_cache": True}

    handle = model.register_forward_pre_hook(with_cache, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def rounded_caches(model: nn.Module, schemes: Mapping[str, Scheme]) -> Iterator[None]:
    """Let attention read keys and values as a cache of these schemes, by name, gives them back."""

    def hook(name: str, rows: Tensor) -> Tensor:
        return round_rows(rows, schemes[name]) if name in schemes else rows

    dtype = getattr(model, "dtype", None)
    if all(TORCH_DTYPES.get(scheme.format) is dtype for scheme in schemes.values()):
        yield
        return
    with hooked_caches(model, hook):
        yield


class _HookedLayer(CacheLayerMixin):
    """Gives back what the hook makes of keys and values; keeps nothing."""

    def __init__(self, hook: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.hook = hook

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is kept."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **keywords: Any
    ) -> tuple[Tensor, Tensor]:
        """What attention reads."""
        return self.hook(Kind.KEYS, key_states), self.hook(Kind.VALUES, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is attended to."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Nothing came before."""
        return 0

    def get_max_length(self) -> int:
        """There is none."""
        return -1


def _call(hook: Hook, module: str, kind: str, states: Tensor) -> Tensor:
    return states_of(hook(f"{module}.{kind}", rows_of(states)), states.shape[1])


def _text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


def _attention_modules(model: Any) -> dict[int, str]:
    """Path of the module that fills each layer of the cache."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    # The layers of an image or sound encoder may be numbered too.
    inside = set(decoder.modules()) if isinstance(decoder, nn.Module) else None
    found: dict[int, str] = {}
    for path, module in model.named_modules():
        index = getattr(module, "layer_idx", None)
        is_attention = _ATTENTION.search(type(module).__name__)
        if isinstance(index, int) and is_attention and (inside is None or module in inside):
            found.setdefault(index, path)
    return found


def _config_of_layer(config: Any, index: int) -> Any:
    """Layers may differ in their heads, as in Gemma 4."""
    layers = getattr(config, "per_layer_config", None)
    return config if layers is None else layers[index]


def _heads(config: Any) -> dict[Kind, tuple[int, int]]:
    """Number and size of the heads of keys and values."""
    queries = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):
        # Multi-head latent attention caches its latent as keys, their rotary part as values.
        return {Kind.KEYS: (1, config.kv_lora_rank), Kind.VALUES: (1, config.qk_rope_head_dim)}
    heads = getattr(config, "num_key_value_heads", None) or queries
    if getattr(config, "multi_query", False) and not getattr(
        config, "new_decoder_architecture", False
    ):
        heads = 1
    dim = getattr(config, "head_dim", None) or config.hidden_size // queries
    return {Kind.KEYS: (heads, dim), Kind.VALUES: (heads, dim)}


def _check_context(config: Any, context: int) -> None:
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and context > longest > 0:
        raise InputError(
            f"The context is {context:,} tokens, but the model reads at most {longest:,}. Ask for "
            "no more than that."
        )


_PACKABLE = (DynamicLayer, DynamicSlidingWindowLayer)
_ATTENTION = re.compile(r"^(?!.*Cross).*Att(ention|n)")

"""The layers of a model's cache, packed or not."""

from collections.abc import Mapping
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from bitplan.cache.layers import PackedLayer, PackedSlidingLayer, Pair


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

"""The layers of a model's cache, packed or not."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from bitplan.cache.layers import PackedLayer, PackedSlidingLayer, Packs, Pair


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

    def store_packed(self, keys: Tensor, values: Tensor, index: int) -> Packs | None:
        """Store a token of each sequence; what is then to be attended to, as it is packed.

        None, and nothing is stored, where no compiled loops attend to it: `update` stores it.
        """
        layer = self.layers[index]
        if not isinstance(layer, PackedLayer) or not layer.is_attended(keys):
            return None
        layer.store(keys, values)
        return layer.packed

    def forget(self, index: int) -> None:
        """Let go what no token after the one that was stored attends to."""
        layer = self.layers[index]
        assert isinstance(layer, PackedLayer)
        layer.forget()

    @property
    def nbytes(self) -> int:
        """Bytes of what is packed."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, PackedLayer))

"""A cache of packed keys and values: a transformers cache in the schemes of a plan.

What attention reads is what is stored, the newest token included, so that one pass over a prompt
and a token at a time give the same, and so does rounding in a forward pass without a cache.
"""

from bitplan.cache.cache import PackedCache as PackedCache
from bitplan.cache.generate import pack_caches as pack_caches

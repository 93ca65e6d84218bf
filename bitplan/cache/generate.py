"""Generation with a packed cache."""

from collections.abc import Mapping
from types import MethodType
from typing import Any

from torch import nn

from bitplan.cache.cache import PackedCache
from bitplan.schema import Scheme


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
    # Some configs, as MPT's, turn the cache off. Whoever plans one wants it.
    changed.generation_config.use_cache = True
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

"""What a model says comes next."""

import inspect
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import ModelError


def next_token_logits(
    model: nn.Module, tokens: Int[Tensor, "sequences length"]
) -> Float[Tensor, "sequences length vocabulary"]:
    """The logits at every token, through its packed cache if it has one.

    Raises `ModelError` for a model that gives none.
    """
    is_encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    output = None if is_encoder_decoder else model(input_ids=tokens, **_cache(model))
    logits = getattr(output, "logits", None)
    if logits is None or logits.dim() != 3:
        raise ModelError(
            f"{type(model).__name__} gives no next-token logits, which bitplan measures by. "
            "Load it with a language-modelling head; encoder-decoders are not supported."
        )
    return logits


def _cache(model: nn.Module) -> dict[str, Any]:
    new_cache: Any = getattr(model, "new_cache", None)
    if new_cache is not None:
        return {"past_key_values": new_cache(), "use_cache": True}
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {"use_cache": False} if takes_any or "use_cache" in parameters else {}

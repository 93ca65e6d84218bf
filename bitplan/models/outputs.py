"""What a model says: of the next token, of each position, of the whole, or its hidden states."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import BitplanError, ModelError
from bitplan.models.inputs import Inputs, complete
from bitplan.models.wide import wide_matmuls

CHUNK = 256
"""Positions whose distributions are compared at once: bounds memory at large vocabularies."""

CACHED = 1 << 16
"""Numbers that a processor compares at once, which its cache holds: at 49,152 words KL takes a
sixth of the time that it takes in chunks of 256 positions."""


class Says(StrEnum):
    """What the numbers at each position are."""

    NEXT = "logits of the next token of the inputs"
    LABELS = "logits of something else than the inputs' next token"
    STATES = "hidden states"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model gives for some inputs.

    A position is what counts as one token: a token, a frame, a patch of an image, or all of an
    image or text that is given one class or one vector.
    """

    values: Float[Tensor, "sequences positions width"]
    says: Says


def read_outputs(model: nn.Module, inputs: Inputs) -> Outputs:
    """Run the model: its logits, or else `last_hidden_state`, or else the first floating tensor.

    Channels come before heights and widths in hidden states of four dimensions. Raises `ModelError`
    for a model that gives none of these, one row for each sequence, or that cannot be run.
    """
    with explained(model, "run on what it was given"), wide_matmuls():
        output: Any = model(**complete(inputs, model).tensors, **_cache(model))
    logits = getattr(output, "logits", None)
    if predicts_next_token(model):
        told_of = None if inputs.ids is None else inputs.ids.shape
        if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[:2] == told_of:
            return Outputs(values=logits, says=Says.NEXT)
    elif isinstance(logits, Tensor) and logits.dim() in (2, 3) and logits.shape[-1] > 1:
        # One logit alone is a number, not the distribution of anything.
        return _outputs(model, inputs, logits, Says.LABELS)
    states = getattr(output, "last_hidden_state", None)
    states = states if isinstance(states, Tensor) else _first_floating(output)
    if states is None or states.dim() < 2 or len(states) != len(inputs):
        raise ModelError(
            f"{type(model).__name__} gives neither logits nor hidden states for each of the "
            f"{len(inputs):,} sequences that it was given, which bitplan measures by. Load it with "
            "a head that does, or measure the part of it that does."
        )
    return _outputs(model, inputs, states, Says.STATES)


def next_token_logits(
    model: nn.Module, tokens: Int[Tensor, "sequences length"]
) -> Float[Tensor, "sequences length vocabulary"]:
    """The logits at every token, through its packed cache if it has one.

    Raises `ModelError` for a model that predicts no next token.
    """
    outputs = read_outputs(model, Inputs.of(tokens))
    if outputs.says is not Says.NEXT:
        raise ModelError(
            f"{type(model).__name__} gives no next-token logits, which this estimator reads. "
            "Choose another estimator, or load the model with a language-modelling head."
        )
    return outputs.values


def logits_kl(
    reference: Float[Tensor, "positions classes"], logits: Float[Tensor, "positions classes"]
) -> float:
    """KL(reference || logits) in nats, a mean over positions."""
    total, some = 0.0, positions_at_once(logits)
    for ours, theirs in zip(logits.split(some), reference.split(some), strict=True):
        log_q, log_p = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        total += torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True).item()
    return total / len(logits)


def positions_at_once(logits: Float[Tensor, "*positions classes"]) -> int:
    """How many positions' distributions are best compared at once, where these logits are."""
    return min(CHUNK, max(1, CACHED // logits.shape[-1])) if logits.is_cpu else CHUNK


def predicts_next_token(model: nn.Module) -> bool:
    """Whether a model predicts each next token of what it reads, and so can go on by itself.

    A module of no library that gives `logits` is taken for one that does.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    can_generate: Any = getattr(model, "can_generate", None)
    return can_generate is None or bool(can_generate())


def positions(model: nn.Module, inputs: Inputs) -> int:
    """Positions in the outputs of one sequence: what its loss is summed over."""
    if inputs.is_text and predicts_next_token(model):
        return inputs.tokens_each
    return read_outputs(model, inputs[:1]).values.shape[1]


@contextmanager
def explained(model: nn.Module, what: str) -> Iterator[None]:
    """Turn what a model raises when it cannot do something into a `ModelError` that says so."""
    try:
        yield
    except (BitplanError, torch.OutOfMemoryError):
        raise
    except _FAILURES as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
        raise ModelError(
            f"{type(model).__name__} cannot {what}: {reason}. Give it other inputs, or measure "
            "another part of it."
        ) from error


_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def _outputs(model: nn.Module, inputs: Inputs, values: Tensor, says: Says) -> Outputs:
    if len(values) != len(inputs):
        raise ModelError(
            f"{type(model).__name__} gives {len(values):,} rows for {len(inputs):,} sequences; it "
            "must give one for each. Give sequences that it reads apart from each other."
        )
    if values.dim() == 2:
        values = values.unsqueeze(1)
    elif values.dim() > 3:
        values = values.flatten(2).transpose(1, 2)
    return Outputs(values=values, says=says)


def _first_floating(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts: Iterable[Any] = ()
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, tuple | list):
        parts = output
    found = (_first_floating(part) for part in parts)
    return next((tensor for tensor in found if tensor is not None), None)


def _cache(model: nn.Module) -> dict[str, Any]:
    """The model's packed cache, if it has one; else none, where a model can be told so."""
    new_cache: Any = getattr(model, "new_cache", None)
    if new_cache is not None:
        return {"past_key_values": new_cache(), "use_cache": True}
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    is_told = "use_cache" in parameters or (takes_any and predicts_next_token(model))
    return {"use_cache": False} if is_told else {}

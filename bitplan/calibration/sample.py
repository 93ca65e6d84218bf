"""Text sampled from the model itself: calibration for whoever has none."""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.calibration.limits import check_length, of_config, what_to_give
from bitplan.errors import CalibrationError, ModelError
from bitplan.models import predicts_next_token, wide_matmuls
from bitplan.progress import Progress, quiet
from bitplan.tensors import load_tensors, save_tensors

BATCH = 16
"""Sequences that are drawn at once. Each batch has its own seed: it can be drawn alone."""


@torch.no_grad()
def sample_tokens(
    model: nn.Module,
    sequences: int,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    kept: Path | None = None,
    progress: Progress = quiet,
) -> Int[Tensor, "sequences length"]:
    """Sequences drawn token by token from the model, after its own start token.

    The first token is the configured start (or end) of text; without one it is drawn at random.
    Logits are divided by `temperature`: below 1, likely tokens are drawn still more often. What is
    drawn is kept in the file `kept`, batch by batch, and is not drawn again. Raises
    `CalibrationError` for a model that does not predict next tokens.
    """
    if not predicts_next_token(model):
        raise CalibrationError(
            f"{type(model).__name__} predicts no next token, so no text can be sampled from it. "
            f"{what_to_give(model)}"
        )
    check_length(length, model)
    check_temperature(temperature)
    parts = [] if kept is None else _read(kept, sequences, length)
    total = -(-sequences // BATCH) * length
    missing = range(len(parts), -(-sequences // BATCH))
    for batch in missing:
        rows = min(BATCH, sequences - batch * BATCH)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + batch) % 2**63)
        tokens = [_first(model, rows, generator)]
        cache = None
        for position in range(1, length):
            progress("sample", batch * length + position, total)
            logits, cache = _next(model, tokens, cache)
            tokens.append(_draw(logits, temperature, generator))
        parts.append(torch.cat(tokens, dim=1))
        if kept is not None:
            save_tensors(kept, {"tokens": torch.cat(parts)})
    if missing:
        progress("sample", total, total)
    return torch.cat(parts)


def check_temperature(temperature: float) -> None:
    """Raise `CalibrationError` for a temperature that is not a number above zero."""
    if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
        raise CalibrationError(
            f"The temperature is {temperature!r}; it must be a number above zero. 1 samples from "
            "the model as it is."
        )


def _read(kept: Path, sequences: int, length: int) -> list[Tensor]:
    """The whole batches of an earlier run."""
    tokens = (load_tensors(kept) or {}).get("tokens")
    if tokens is None or tokens.shape[1:] != (length,) or len(tokens) > sequences:
        return []
    return list(tokens.split(BATCH))


def _next(model: nn.Module, tokens: list[Tensor], cache: object) -> tuple[Tensor, object]:
    """Logits [rows, vocabulary] after the tokens, and the cache that the next call may use."""
    read = tokens[-1] if cache is not None else torch.cat(tokens, dim=1)
    with wide_matmuls():
        output: Any = model(input_ids=read, past_key_values=cache, use_cache=True)
    if getattr(output, "logits", None) is None:
        raise CalibrationError(
            f"{type(model).__name__} predicts no next token, so no text can be sampled "
            "from it. Give calibration text."
        )
    # A model without such a cache reads all tokens again.
    return output.logits[:, -1], getattr(output, "past_key_values", None)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Int[Tensor, "rows 1"]:
    if not logits.isfinite().all():
        raise ModelError(
            "The model's logits are not finite. Check its weights, or load it in a wider dtype: "
            "bfloat16 in place of float16, or float32."
        )
    # The largest logit becomes zero, which no temperature makes infinite.
    below = logits.float() - logits.float().amax(-1, keepdim=True)
    return torch.multinomial((below / temperature).softmax(-1).cpu(), 1, generator=generator)


def _first(model: nn.Module, rows: int, generator: torch.Generator) -> Int[Tensor, "rows 1"]:
    vocabulary = of_config(model, "vocab_size")
    if vocabulary is None:
        raise CalibrationError(
            f"{type(model).__name__} has no vocabulary size in its config. Give calibration tokens."
        )
    config = getattr(model, "config", None)
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int) and 0 <= token < vocabulary:
            return torch.full((rows, 1), token)
    return torch.randint(vocabulary, (rows, 1), generator=generator)

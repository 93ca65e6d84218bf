"""A model beside its reference: perplexity, KL, speed, memory."""

import gc
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from bitplan.apply import held_bytes
from bitplan.calibration import check_inputs, read_documents, tokenize
from bitplan.errors import CalibrationError, ModelError
from bitplan.evaluate.divergence import compare, make_reference
from bitplan.evaluate.throughput import peak_memory, reset_peak_memory, tokens_per_second
from bitplan.export import is_packed, load, load_plan
from bitplan.models import (
    Inputs,
    Source,
    describe,
    find_layers,
    load_model,
    load_tokenizer,
    model_digest,
    source_name,
)
from bitplan.progress import Progress, quiet
from bitplan.schema import Record

log = logging.getLogger(__name__)


class Side(Record):
    """One model's figures."""

    name: str
    bytes: NonNegativeInt
    perplexity: NonNegativeFloat | None
    kl: float | None = None
    kl_standard_error: NonNegativeFloat | None = None
    tokens_per_second: NonNegativeFloat | None = None
    peak_bytes: NonNegativeInt


class Report(Record):
    """A model and, where one was given, its reference, over the same tokens.

    `kl` is KL(reference || model) in nats per token. `peak_bytes` is the peak resident memory of
    the whole process, Python and torch included, while that side generates.
    """

    tokens: PositiveInt
    model: Side
    reference: Side | None = None


def evaluate(
    model: Source,
    *,
    reference: Source | None = None,
    text: str | Path | Sequence[str] | Tensor | Mapping[str, Tensor],
    tokenizer: Any = None,
    sequences: int = 16,
    length: int = 256,
    dtype: str = "auto",
    progress: Progress = quiet,
) -> Report:
    """Measure a model, packed or not, and its reference on held-out text.

    `text` is a text or JSONL file, a folder of data sets, a list of documents, tokens
    [sequences, length], or tensors by name for a model that reads something else; of text, the
    first `sequences` x `length` tokens are read. The two models are loaded one after the other.
    A packed model that was not made from the reference is warned of. Raises `CalibrationError` for
    too little text and `ModelError` for a model without outputs.
    """
    tokens = _tokens(text, tokenizer, reference or model, sequences, length)
    told, reference_side = None, None
    if reference is not None:
        loaded = _load(reference, dtype)
        _warn_of_another(model, reference, loaded)
        told = make_reference(loaded, check_inputs(tokens, loaded), progress=progress)
        reference_side = _side(loaded, reference, perplexity=told.perplexity)
        del loaded
    loaded = _load(model, dtype)
    tokens = check_inputs(tokens, loaded)
    if told is None:
        own = make_reference(loaded, tokens, progress=progress)
        side = _side(loaded, model, perplexity=own.perplexity)
    else:
        found = compare(loaded, told, progress=progress)
        del told  # its logits, once read, count as memory of this process
        if not found.is_finite:
            raise ModelError(
                f"{source_name(model)} gives outputs that are not finite. Give it more bits, or "
                "make it from a model in a wider dtype: bfloat16 in place of float16, or float32."
            )
        side = _side(
            loaded,
            model,
            perplexity=found.perplexity,
            kl=found.mean,
            kl_standard_error=found.standard_error,
        )
    return Report(tokens=Inputs.of(tokens).tokens, model=side, reference=reference_side)


def _load(source: Source, dtype: str) -> nn.Module:
    if not isinstance(source, nn.Module) and is_packed(source):
        return load(source)
    return load_model(source, dtype=dtype)


def _warn_of_another(model: Source, reference: Source, loaded: nn.Module) -> None:
    """Warn where the plan of a packed folder names other weights than those of the reference."""
    if isinstance(model, nn.Module) or not is_packed(model):
        return
    # The digest of a packed model is not that of what it was made from.
    if not isinstance(reference, nn.Module) and is_packed(reference):
        return
    made = load_plan(model).provenance
    if describe(loaded).dtype != made.dtype:
        return  # rounded in another way, the same weights have another digest
    if model_digest(loaded, find_layers(loaded)) != made.model_digest:
        log.warning(
            "%s was made from other weights than those of %s: from %s, digest %s. The KL is that "
            "to another model.",
            source_name(model),
            source_name(reference),
            made.model,
            made.model_digest[:12],
        )


def _side(model: nn.Module, source: Source, **figures: float | None) -> Side:
    gc.collect()
    reset_peak_memory()
    speed = tokens_per_second(model)
    return Side(
        name=source_name(source),
        bytes=held_bytes(model),
        tokens_per_second=speed,
        peak_bytes=peak_memory(),
        **figures,
    )


def _tokens(
    text: str | Path | Sequence[str] | Tensor | Mapping[str, Tensor],
    tokenizer: Any,
    source: Source,
    sequences: int,
    length: int,
) -> Tensor | Mapping[str, Tensor]:
    if isinstance(text, Tensor | Mapping):
        return text

    @cache
    def tokenizer_of() -> Any:
        return tokenizer or load_tokenizer(source)

    documents = read_documents(text, tokenizer_of)
    tokens = tokenize(documents, tokenizer_of(), sequences, length)
    if not len(tokens):
        raise CalibrationError(
            f"The text has fewer than {length:,} tokens. Give more text, or a smaller length."
        )
    return tokens

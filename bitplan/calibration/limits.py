"""What a model can read: tokens of its vocabulary, in sequences no longer than it was made for."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.errors import CalibrationError
from bitplan.models import Inputs, main_input, reads


def check_inputs(
    given: Tensor | Mapping[str, Tensor] | Inputs, model: nn.Module
) -> Int[Tensor, "sequences length"] | Inputs:
    """Tokens as int64, or the other inputs as they are: only what the model can read.

    Raises `CalibrationError` for what it cannot.
    """
    inputs = Inputs.of(given)
    _check_names(inputs, model)
    if inputs.is_text:
        return check_tokens(inputs.tensors["input_ids"], model)
    counts = {name: len(tensor) for name, tensor in inputs.tensors.items() if tensor.dim()}
    if len(set(counts.values())) != 1 or not len(inputs):
        raise CalibrationError(
            f"The inputs have {counts} rows: each needs as many as the others, one a sequence, and "
            "there must be one at least."
        )
    for name, tensor in inputs.tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CalibrationError(
                f"{name} holds values that are NaN or infinite; all must be finite. Make it again."
            )
    checked = {
        name: check_tokens(tensor, model) if name in _TOKENS else tensor
        for name, tensor in inputs.tensors.items()
    }
    return Inputs(tensors=checked)


def what_to_give(model: nn.Module) -> str:
    """Advice on calibration for a model that cannot make up its own."""
    name = main_input(model)
    if name != "input_ids":
        second = ' and "decoder_input_ids"' if reads(model, "decoder_input_ids") else ""
        return f'Give calibration, a mapping of tensors with "{name}"{second}.'
    return "Give calibration text, or tokens [sequences, length]."


def _check_names(inputs: Inputs, model: nn.Module) -> None:
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    unknown = [name for name in inputs.tensors if name not in parameters and not takes_any]
    name = main_input(model)
    missing = [] if name in inputs.tensors else [name]
    if "input_ids" not in inputs.tensors and reads(model, "decoder_input_ids"):
        missing += [] if "decoder_input_ids" in inputs.tensors else ["decoder_input_ids"]
    if unknown or missing:
        does = f"does not read {unknown[0]}" if unknown else f"needs {' and '.join(missing)}"
        raise CalibrationError(
            f"{type(model).__name__} {does}, but it was given {', '.join(inputs.tensors)}. "
            f"{what_to_give(model)}"
        )


def check_tokens(tokens: Tensor, model: nn.Module) -> Int[Tensor, "sequences length"]:
    """The tokens as int64. Raises `CalibrationError` for those that the model cannot read."""
    if tokens.dim() != 2 or tokens.dtype not in _INTEGERS:
        raise CalibrationError(
            f"Tokens must be integers of shape [sequences, length]; these are {tokens.dtype} "
            f"{list(tokens.shape)}."
        )
    if not len(tokens) or tokens.shape[1] < 2:
        raise CalibrationError(
            f"The tokens have shape {list(tokens.shape)}; there must be at least one sequence, of "
            "at least 2 tokens."
        )
    check_length(tokens.shape[1], model)
    vocabulary = of_config(model, "vocab_size")
    if vocabulary is not None and not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise CalibrationError(
            f"Tokens run from {tokens.min()} to {tokens.max()}, but the model's vocabulary has "
            f"{vocabulary:,}. Use the model's own tokenizer."
        )
    return tokens.to(torch.int64)


def check_length(length: int, model: nn.Module) -> None:
    """Raise `CalibrationError` for sequences longer than the model reads."""
    longest = context_of(model)
    if longest is not None and length > longest:
        raise CalibrationError(
            f"The sequences are {length:,} tokens long, but the model reads at most {longest:,}. "
            "Give a smaller length."
        )


def context_of(model: nn.Module) -> int | None:
    """Tokens that the model reads at most; None: its config names no limit."""
    return of_config(model, "max_position_embeddings") or of_config(model, "max_seq_len")


def check_vocabulary(tokenizer: Any, model: nn.Module) -> None:
    """Raise `CalibrationError` for a tokenizer that was plainly made for another model.

    Models round their vocabulary up, and tokenizers gain a token or two that models never learned:
    those go, as long as the tokens themselves are of the vocabulary, which `check_tokens` sees to.
    """
    vocabulary, known = of_config(model, "vocab_size"), getattr(tokenizer, "vocab_size", None)
    if vocabulary is None or not isinstance(known, int):
        return
    everything = max(known, len(tokenizer))  # with the tokens that were added
    if known > vocabulary or 2 * everything < vocabulary:
        raise CalibrationError(
            f"The tokenizer has {everything:,} tokens, but the model's vocabulary has "
            f"{vocabulary:,}. Use the model's own tokenizer, or give tokens in place of text."
        )


def of_config(model: nn.Module, name: str) -> int | None:
    """A number above zero from the model's config, or from the config of its text model."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else None


_TOKENS = {"input_ids", "decoder_input_ids"}
_INTEGERS = {torch.uint8, torch.int16, torch.int32, torch.int64}

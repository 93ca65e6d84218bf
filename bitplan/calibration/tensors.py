"""Tokens that are ready: a tensor, or a safetensors file with `input_ids`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitplan.calibration.sets import TokenSets
from bitplan.calibration.sources import Calibration, Source, inputs_of, sources_of
from bitplan.errors import CalibrationError
from bitplan.models import Inputs

FIELD = "input_ids"


def has_tokens(source: Source) -> bool:
    """Whether a source is tokens, and not text."""
    is_file = source.path is not None and source.path.suffix.lower() == ".safetensors"
    return is_file or isinstance(source.content, Tensor)


def tokens_of(source: Source) -> Tensor:
    """The tokens of a source [sequences, length], as they are given.

    Raises `CalibrationError` for a file without them.
    """
    if isinstance(source.content, Tensor):
        return source.content
    with _opened(source) as file:
        return file.get_tensor(FIELD)


def own_length(calibration: Calibration) -> int | None:
    """The length that given tokens have; None: all is text, which can be cut to any.

    Raises `CalibrationError` for several sources of tokens that differ in length.
    """
    if isinstance(calibration, TokenSets):
        return _length_of(Inputs.of(calibration.calibration))
    if (inputs := inputs_of(calibration)) is not None:
        return _length_of(inputs)
    lengths: dict[int, str] = {}
    for source in filter(has_tokens, sources_of(calibration)):
        length = _length(_shape(source))
        if length is not None:
            lengths.setdefault(length, source.label)
    if len(lengths) > 1:
        (one, first), (other, second), *_ = lengths.items()
        raise CalibrationError(
            f"The sequences of {first} are {one:,} tokens long and those of {second} {other:,}. "
            "Cut them to one length."
        )
    return next(iter(lengths), None)


def _length_of(inputs: Inputs) -> int | None:
    """2, the least there is, where nothing has a length."""
    return 2 if inputs.ids is None else _length(list(inputs.ids.shape))


def _shape(source: Source) -> list[int]:
    if isinstance(source.content, Tensor):
        return list(source.content.shape)
    with _opened(source) as file:
        return file.get_slice(FIELD).get_shape()


def _length(shape: list[int]) -> int | None:
    """None for what is no batch of sequences: whoever reads it says so."""
    return shape[1] if len(shape) == 2 and shape[1] > 1 else None


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    path = str(source.content)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if FIELD not in names:
                raise CalibrationError(
                    f"{path} holds {', '.join(names) or 'nothing'}, but no tensor {FIELD}. Save "
                    "tokens [sequences, length] under that name."
                )
            yield file
    except (OSError, SafetensorError) as error:
        raise CalibrationError(
            f"{path} is no readable safetensors file ({error}). Save it again."
        ) from error

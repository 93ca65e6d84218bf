"""What transformers raises and prints while it loads, turned into errors that say what to do."""

import contextlib
import io
import struct
import sys
from collections.abc import Iterator

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from bitplan.errors import ModelError
from bitplan.place import Place


@contextlib.contextmanager
def explained_failures(place: Place, what: str = "the model") -> Iterator[None]:
    """Turn what transformers raises for bad files, bad names and no network into `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except _FAILURES as error:
        raise ModelError(
            f"{place.source}: {what} cannot be loaded. {_advice(place, error)}"
        ) from error


def _advice(place: Place, error: BaseException) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return "Its owner asks you to accept terms first: do so on its page, then log in."
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "There is no such folder here and no such model on the hub: check the spelling."
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        return (
            "There is no such folder here, it is not in the hub's cache, and the hub cannot be "
            "reached. Check the spelling and the network, or download the model beforehand."
        )
    reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
    if place.gguf_file is not None:
        return f"transformers says: {reason}. The file may be truncated, or too new: get another."
    return f"transformers says: {reason}. Check the files, or update transformers."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def quiet_transformers(place: Place) -> Iterator[None]:
    """No bars and no warnings: what matters in them is checked here and raised."""
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # The GGUF reader draws a bar that no setting of transformers turns off.
    is_gguf = place.gguf_file is not None
    try:
        with contextlib.redirect_stderr(io.StringIO() if is_gguf else sys.stderr):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    struct.error,
    SafetensorError,
    StrictDataclassError,
)

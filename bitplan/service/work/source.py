"""Where a model and its text are: "demo" stands for files that are fetched when first used."""

from typing import Any

from bitplan.models import demo_documents, fetch, load_tokenizer
from bitplan.progress import Progress, quiet
from bitplan.service.policy import DEMO


def source_of(model: str, progress: Progress = quiet) -> str:
    """What to load for a model's name that is allowed."""
    return str(fetch(progress=progress).gguf) if model == DEMO else model


def text_of(model: str, calibration: str | None, progress: Progress = quiet) -> dict[str, Any]:
    """The text that goes with a model, as the library's functions take it: the demo's has its own.

    Args:
        model: its name.
        calibration: a file's path, "demo", or None: the demo's for the demo's model, else sampled.
        progress: of fetching.
    """
    if calibration != DEMO and (calibration is not None or model != DEMO):
        return {"calibration": calibration}
    files = fetch(progress=progress)
    text: dict[str, Any] = {"calibration": demo_documents(files)}
    return text | {"tokenizer": load_tokenizer(str(files.gguf))} if model == DEMO else text

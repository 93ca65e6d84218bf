"""Documents from a text file, a JSONL file or a list of strings."""

import json
from collections.abc import Sequence
from pathlib import Path

from bitplan.errors import CalibrationError, InputError
from bitplan.files import read_text

TEXT_FIELDS = ("text", "content", "document")
"""Where a JSON line keeps its text, in order of preference."""


def read_documents(source: str | Path | Sequence[str]) -> list[str]:
    """The documents of a source.

    A `.jsonl` file has one document a line: a string, or an object with a field `text`. Any other
    file is text whose documents are set apart by two or more blank lines, or else by single ones.
    A document that comes again is left out: it must not be judged on after it was calibrated on.
    Raises `CalibrationError` when there are none.
    """
    if not isinstance(source, str | Path):
        documents = list(source)
        if not all(isinstance(document, str) for document in documents):
            raise CalibrationError("Calibration text must be strings; give a list of them.")
        name = "The list"
    else:
        documents, name = _read_file(Path(source)), str(source)
    first_of: dict[str, str] = {}
    for document in documents:
        first_of.setdefault(document.strip(), document)
    documents = [document for text, document in first_of.items() if text]
    if not documents:
        raise CalibrationError(
            f"{name} has no text. Give a few thousand words of what the model reads."
        )
    return documents


def _read_file(path: Path) -> list[str]:
    try:
        text = read_text(path).removeprefix("\ufeff")
    except InputError as error:
        raise CalibrationError(str(error)) from error
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        # Not splitlines: JSON strings may hold what that takes for an end of line.
        return [
            _text_of(line, path, number)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    separator = "\n\n\n" if "\n\n\n" in text.strip() else "\n\n"
    return text.split(separator)


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CalibrationError(
            f"{path}, line {number} is not JSON ({error}). Mend or drop it."
        ) from None
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for field in TEXT_FIELDS:
            if isinstance(value.get(field), str):
                return value[field]
    fields = ", ".join(TEXT_FIELDS)
    raise CalibrationError(
        f"{path}, line {number} holds no text: it must be a string, or an object with one of the "
        f"fields {fields}."
    )

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
    Raises `CalibrationError` when there are none.
    """
    if not isinstance(source, str | Path):
        documents = list(source)
        if not all(isinstance(document, str) for document in documents):
            raise CalibrationError("Calibration text must be strings; give a list of them.")
        name = "The list"
    else:
        documents, name = _read_file(Path(source)), str(source)
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise CalibrationError(
            f"{name} has no text. Give a few thousand words of what the model reads."
        )
    return documents


def _read_file(path: Path) -> list[str]:
    try:
        text = read_text(path)
    except InputError as error:
        raise CalibrationError(str(error)) from error
    if path.suffix in {".jsonl", ".ndjson"}:
        return [
            _text_of(line, path, number)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    separator = "\n\n\n" if "\n\n\n" in text.strip() else "\n\n"
    return text.split(separator)


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
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

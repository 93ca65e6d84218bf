"""Documents from a text file, a JSONL file, a folder of data sets or a list of strings."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitplan.calibration.chat import render_chat
from bitplan.calibration.folder import KINDS, data_files, read_folder
from bitplan.errors import CalibrationError, InputError
from bitplan.files import read_text

TEXT_FIELDS = ("text", "content", "document")
"""Where a row keeps its text, in order of preference."""

CHAT_FIELD = "messages"
"""Where a row keeps a chat: messages of a role and a content each."""

Row = tuple[str, Any]
"""Where a row is, for errors, and its value: a string or a mapping."""


def read_documents(
    source: str | Path | Sequence[str], tokenizer_of: Callable[[], Any] = lambda: None
) -> list[str]:
    """The documents of a source.

    A row of a `.jsonl` file, or of a folder of data sets, is a string, or an object with a field
    `text` or with `messages`, which the chat template of the tokenizer makes text of;
    `tokenizer_of` is called for it where there is such a row. Any other file is
    text whose documents are set apart by two or more blank lines, or else by single ones. A
    document that comes again is left out: it must not be judged on after it was calibrated on.
    Raises `CalibrationError` when there are none, and for a chat without a template for it.
    """
    if not isinstance(source, str | Path):
        documents = list(source)
        if not all(isinstance(document, str) for document in documents):
            raise CalibrationError("Calibration text must be strings; give a list of them.")
        name = "The list"
    else:
        path, name = Path(source), str(source)
        if path.suffix.lower() in KINDS["jsonl"] or (name and _is_folder(path)):
            documents = [_text_of(row, tokenizer_of) for row in _rows(path)]
        else:
            text = _read(path)
            documents = text.split("\n\n\n" if "\n\n\n" in text.strip() else "\n\n")
    first_of: dict[str, str] = {}
    for document in documents:
        first_of.setdefault(document.strip(), document)
    documents = [document for text, document in first_of.items() if text]
    if not documents:
        raise CalibrationError(
            f"{name} has no text. Give a few thousand words of what the model reads."
        )
    return documents


def _rows(path: Path) -> Iterable[Row]:
    kind, files = data_files(path) if path.is_dir() else ("jsonl", [path])
    if kind == "jsonl":
        for file in files:
            yield from _json_lines(file)
    else:
        yield from read_folder(path, (*TEXT_FIELDS, CHAT_FIELD))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a null character: reading it says so
        return False


def _json_lines(path: Path) -> Iterable[Row]:
    # Not splitlines: JSON strings may hold what that takes for an end of line.
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield where, json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise CalibrationError(f"{where} is not JSON ({error}). Mend or drop it.") from None


def _read(path: Path) -> str:
    try:
        return read_text(path).removeprefix("\ufeff")
    except InputError as error:
        raise CalibrationError(str(error)) from error


def _text_of(row: Row, tokenizer_of: Callable[[], Any]) -> str:
    where, value = row
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for field in TEXT_FIELDS:
            if isinstance(value.get(field), str):
                return value[field]
        if value.get(CHAT_FIELD) is not None:
            return render_chat(value[CHAT_FIELD], tokenizer_of(), where=where)
    fields = ", ".join((*TEXT_FIELDS, CHAT_FIELD))
    raise CalibrationError(
        f"{where} holds no text: it must be a string, or an object with one of the fields {fields}."
    )

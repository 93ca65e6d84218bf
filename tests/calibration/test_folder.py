"""Folders of data sets: whatever they are saved as, the same documents."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from bitplan.calibration import read_documents
from bitplan.calibration.folder import read_folder
from bitplan.errors import CalibrationError

TEXTS = [f"document {index}" for index in range(7)]
OTHERS = [f"other {index}" for index in range(3)]


def table(texts: list[str], column: str = "text") -> datasets.Dataset:
    return datasets.Dataset.from_dict({column: texts, "id": list(range(len(texts)))})


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def saved(folder: Path) -> None:
    table(TEXTS).save_to_disk(folder)


def saved_in_shards(folder: Path) -> None:
    table(TEXTS).save_to_disk(folder, num_shards=3)


def saved_with_splits(folder: Path) -> None:
    splits = {"test": table(OTHERS), "train": table(TEXTS)}
    datasets.DatasetDict(splits).save_to_disk(folder)


def saved_with_one_split(folder: Path) -> None:
    datasets.DatasetDict({"mine": table(TEXTS, "content")}).save_to_disk(folder)


def parquet(folder: Path) -> None:
    table(TEXTS[:4]).to_parquet(folder / "a.parquet")
    table(TEXTS[4:]).to_parquet(folder / "b.parquet")


def parquet_with_splits(folder: Path) -> None:
    (folder / "data").mkdir()
    table(OTHERS).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    table(TEXTS).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def arrow(folder: Path) -> None:
    saved(folder)
    for name in ("state.json", "dataset_info.json"):
        (folder / name).unlink()


def jsonl(folder: Path) -> None:
    for name, texts in {"a.jsonl": TEXTS[:2], "b.ndjson": TEXTS[2:]}.items():
        (folder / name).write_text("\n".join(json.dumps({"text": text}) for text in texts))


KINDS = [
    saved,
    saved_in_shards,
    saved_with_splits,
    saved_with_one_split,
    parquet,
    parquet_with_splits,
    arrow,
    jsonl,
]


@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
def test_a_folder_has_these_documents(write: Callable[[Path], None], tmp_path):
    write(tmp_path)
    assert read_documents(tmp_path) == TEXTS
    assert read_documents(str(tmp_path)) == TEXTS


@pytest.mark.parametrize("write", [saved, parquet])
def test_chats_are_rendered(write, tmp_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", "{{ messages[0].content }}")
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    rows = datasets.Dataset.from_dict({"messages": chats})
    if write is saved:
        rows.save_to_disk(tmp_path)
    else:
        rows.to_parquet(tmp_path / "chats.parquet")
    assert read_documents(tmp_path, lambda: tiny_tokenizer) == TEXTS
    with pytest.raises(CalibrationError, match="row 0 is a chat"):
        read_documents(tmp_path)


@pytest.mark.parametrize("write", [saved, parquet])
def test_of_too_many_rows_evenly_spaced_ones_are_read(write, tmp_path):
    write(tmp_path)
    rows = [row for _, row in read_folder(tmp_path, ["text"], most=3)]
    assert rows == [{"text": TEXTS[0]}, {"text": TEXTS[3]}, {"text": TEXTS[6]}]


def test_splits_without_train_are_named(tmp_path):
    splits = {"test": table(OTHERS), "valid": table(TEXTS)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    with pytest.raises(CalibrationError, match="has the splits test, valid, but no train"):
        read_documents(tmp_path)
    assert read_documents(tmp_path / "test") == OTHERS


@pytest.mark.parametrize("write", ["saved", "parquet"])
def test_columns_without_text_are_named(write, tmp_path):
    rows = table(TEXTS, "prompt")
    if write == "saved":
        rows.save_to_disk(tmp_path)
    else:
        rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(CalibrationError, match=r"columns prompt, id, but none of text, content"):
        read_documents(tmp_path)


def test_an_empty_data_set_is_refused(tmp_path):
    table([]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(CalibrationError, match="has no text"):
        read_documents(tmp_path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "state.json"])
@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing"])
def test_a_damaged_file_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationError, match=r"The data set in .* cannot be read: "):
        read_documents(tmp_path)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(CalibrationError, match="holds no data set: there must be parquet"):
        read_documents(tmp_path)
    jsonl(tmp_path)
    assert read_documents(tmp_path) == TEXTS
    parquet(tmp_path)
    with pytest.raises(CalibrationError, match=r"holds jsonl and parquet files: .* of one kind"):
        read_documents(tmp_path)


@pytest.mark.parametrize("missing", ["datasets", "pyarrow"])
def test_a_missing_package_is_named_with_what_installs_it(missing, tmp_path, monkeypatch):
    parquet(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(CalibrationError, match=r"pip install 'bitplan\[datasets\]'"):
        read_documents(tmp_path)
    (tmp_path / "lines").mkdir()
    jsonl(tmp_path / "lines")
    assert read_documents(tmp_path / "lines") == TEXTS

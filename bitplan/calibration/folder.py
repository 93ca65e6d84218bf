"""Rows of a folder of data sets: saved by `datasets`, or parquet, arrow or JSONL files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bitplan.errors import CalibrationError

ROWS = 65_536
"""Rows that are read at most, evenly spaced: far more than calibration takes, little memory."""

KINDS = {"jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",), "arrow": (".arrow",)}
"""Kinds of data files by their suffixes."""

SPLIT = "train"
"""The split that is read where there are several: others are kept for judging models."""


def data_files(folder: Path) -> tuple[str, list[Path]]:
    """What kind of data a folder holds, and its files: a key of `KINDS`, or `saved` without files.

    Where names of files begin with the split, those of `train` are meant. Raises `CalibrationError`
    for a folder with nothing, and for one with several kinds.
    """
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return "saved", []
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        for kind, suffixes in KINDS.items():
            if path.suffix.lower() in suffixes:
                found.setdefault(kind, []).append(path)
    if len(found) != 1:
        holds = " and ".join(found) + " files" if found else "no data set"
        raise CalibrationError(
            f"The folder {folder} holds {holds}: there must be parquet, arrow or jsonl files, all "
            "of one kind, or what save_to_disk of datasets wrote."
        )
    [(kind, paths)] = found.items()
    return kind, [path for path in paths if path.name.startswith(SPLIT)] or paths


def read_folder(
    folder: Path, columns: Sequence[str], *, most: int = ROWS
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a folder of tables, each with its place: those of `columns` that it has.

    Of a folder with several splits, `train` is read; of more than `most` rows, evenly spaced ones.
    Raises `CalibrationError` for data that cannot be read or has none of the columns, and where the
    package `datasets` is missing.
    """
    kind, files = data_files(folder)
    try:
        import datasets
        import pyarrow
        import pyarrow.dataset
    except ImportError as error:
        raise CalibrationError(
            f"Reading the folder {folder} takes the package datasets, which cannot be imported "
            f"({error}). Install it: pip install 'bitplan[datasets]'."
        ) from error
    try:
        if kind == "saved":
            table = _saved(datasets.load_from_disk(str(folder)), folder)
        elif kind == "parquet":
            table = pyarrow.dataset.dataset([str(path) for path in files], format="parquet")
        else:
            parts = [datasets.Dataset.from_file(str(path)) for path in files]
            table = datasets.concatenate_datasets(parts)
        yield from _rows(table, folder, columns, most)
    except CalibrationError:
        raise
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CalibrationError(
            f"The data set in {folder} cannot be read: {reason}. Save it again."
        ) from error


def _saved(saved: Any, folder: Path) -> Any:
    """The data set, or the split of it that is meant."""
    if not isinstance(saved, dict):
        return saved
    if SPLIT not in saved and len(saved) != 1:
        raise CalibrationError(
            f"{folder} has the splits {', '.join(saved)}, but no {SPLIT}. Give the folder of the "
            f"one that is meant, as {folder / next(iter(saved), SPLIT)}."
        )
    return saved[SPLIT] if SPLIT in saved else next(iter(saved.values()))


def _rows(
    table: Any, folder: Path, columns: Sequence[str], most: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    is_arrow = hasattr(table, "count_rows")  # pyarrow's, else datasets' own
    names = table.schema.names if is_arrow else table.column_names
    found = [column for column in columns if column in names]
    if not found:
        raise CalibrationError(
            f"The data set in {folder} has the columns {', '.join(names)}, but none of "
            f"{', '.join(columns)}. Rename the one that holds the text."
        )
    count = table.count_rows() if is_arrow else len(table)
    indices = range(0, count, max(1, -(-count // most)))
    if is_arrow:
        rows = table.take(list(indices), columns=found).to_pylist()
    else:
        rows = table.select_columns(found).select(indices)
    for index, row in zip(indices, rows, strict=True):
        yield f"{folder}, row {index}", row

"""Rows of a folder of data sets: saved by `datasets`, or parquet or arrow files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bitplan.errors import CalibrationError

ROWS = 65_536
"""Rows that are read at most, evenly spaced: far more than calibration takes, little memory."""

SPLIT = "train"
"""The split that is read where there are several: others are kept for judging models."""


def read_folder(
    folder: Path, columns: Sequence[str], *, most: int = ROWS
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a folder, each with its place: those of `columns` that it has.

    Of a folder with several splits, `train` is read; of more than `most` rows, evenly spaced ones.
    Raises `CalibrationError` for a folder without data, for data without any of the columns, and
    where the package `datasets` is missing.
    """
    is_saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    parquet, arrow = _files(folder, "parquet"), _files(folder, "arrow")
    if not (is_saved or parquet or arrow):
        raise CalibrationError(
            f"The folder {folder} holds no data set: there must be parquet, arrow or jsonl files, "
            "or what save_to_disk of datasets wrote."
        )
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
        if is_saved:
            table = _saved(datasets.load_from_disk(str(folder)), folder)
        elif parquet:
            table = pyarrow.dataset.dataset([str(path) for path in parquet], format="parquet")
        else:
            parts = [datasets.Dataset.from_file(str(path)) for path in arrow]
            table = datasets.concatenate_datasets(parts)
        yield from _rows(table, folder, columns, most)
    except CalibrationError:
        raise
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CalibrationError(
            f"The data set in {folder} cannot be read: {reason}. Save it again."
        ) from error


def _files(folder: Path, suffix: str) -> list[Path]:
    """The files of a kind; where names begin with the split, those of `train` alone."""
    paths = sorted(folder.rglob(f"*.{suffix}"))
    return [path for path in paths if path.name.startswith(SPLIT)] or paths


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

"""Rows in a file, one JSON object a line: what a killed run has measured is there for the next."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
KEYS = ("model", "quantizer", "seed", "bits", "arm")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A row for each model, quantizer, seed, budget and arm; the first of a kind counts.

    A row of a failure (`failed`: the reason) is not known, so that it is tried again; it counts
    where nothing else is there.
    """

    path: Path

    def __iter__(self) -> Iterator[Row]:
        found: dict[tuple[Any, ...], Row] = {}
        for row in self._all():
            key = key_of(row)
            if key not in found or ("failed" in found[key] and "failed" not in row):
                found[key] = row
        return iter(found.values())

    def _all(self) -> Iterator[Row]:
        text = self.path.read_text() if self.path.is_file() else ""
        for line in text.splitlines():
            # The last line is no JSON where a run was killed as it wrote.
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)

    def known(self) -> set[tuple[Any, ...]]:
        """The keys of all that was measured."""
        return {key_of(row) for row in self if "failed" not in row}

    def append(self, row: Row) -> None:
        """Add a row, on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_bytes() if self.path.is_file() else b""
        is_torn = bool(text) and not text.endswith(b"\n")
        with self.path.open("a") as file:
            file.write(("\n" if is_torn else "") + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def key_of(row: Row) -> tuple[Any, ...]:
    """What a row is of."""
    return tuple(row[key] for key in KEYS)

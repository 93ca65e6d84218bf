"""Rows of a benchmark in a file, a JSON object a line, added as they are measured."""

import contextlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


def rows_in(path: Path) -> Iterator[Row]:
    """What was measured; the last line is no JSON where a run was killed as it wrote."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def append(path: Path, row: Row) -> None:
    is_torn = path.is_file() and not path.read_text().endswith("\n")
    with path.open("a") as file:
        file.write(("\n" if is_torn else "") + json.dumps(row) + "\n")


def machine() -> str:
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.__version__}"

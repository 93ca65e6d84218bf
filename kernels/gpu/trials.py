"""The quickest of the shapes that the model of a device thinks quick, tried on the device itself.

Only where BITPLAN_AUTOTUNE=1 asks for it: what runs then depends on what was timed, and other
splits add up in another order. Of a shape that is new up to `MOST` are tried, at its first product,
and the quickest is kept in a file of this device and this Triton. Only shapes are tried that the
model chooses for some number of tokens, so no kernel is compiled that is not shipped.
"""

import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
import torch
import triton

from bitplan.errors import OutputError
from bitplan.files import read_text, write_text
from bitplan.kernels.gpu.layout import panel_of
from bitplan.kernels.gpu.shapes import Blocks, Device, blocks_of
from bitplan.kernels.gpu.steps import steps_alone
from bitplan.schema import Scheme

AUTOTUNE = "BITPLAN_AUTOTUNE"

MOST = 4
"""Shapes that are tried."""

WITHIN = 1.5
"""They take at most so many times the steps that the model counts for its own choice."""

TOKENS = (32, 64, 128)
"""Of a tile of many tokens."""


def is_asked_for() -> bool:
    """Whether shapes are to be tried."""
    return os.environ.get(AUTOTUNE) == "1"


def tried(
    scheme: Scheme,
    rows: int,
    columns: int,
    tokens: int,
    dtype: str,
    device: Device,
    *,
    place: torch.device,
    run: Callable[[Blocks], object],
    precise: bool = False,
) -> Blocks:
    """The quickest candidate, from the file or by trying `run` with each on `place`.

    While a graph is captured nothing can be timed: then what is kept, or the model's choice.
    """
    candidates = candidates_for(scheme, rows, columns, tokens, device, precise=precise)
    if len(candidates) == 1:
        return candidates[0]
    of_many = candidates[0].many
    about = 1 << (tokens - 1).bit_length() if of_many else candidates[0].tokens
    key = f"{scheme} {rows}x{columns} {about} {'float32' if precise else dtype}"
    file = file_of(place)
    kept = _kept(file).get(key)
    for one in candidates:
        if kept == _told(one):
            return one
    if place.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return candidates[0]
    with torch.cuda.device(place) if place.type == "cuda" else nullcontext():
        seconds = [seconds_of(lambda one=one: run(one)) for one in candidates]
    best = candidates[seconds.index(min(seconds))]
    _keep(file, key, _told(best))
    return best


@cache
def candidates_for(
    scheme: Scheme, rows: int, columns: int, tokens: int, device: Device, *, precise: bool = False
) -> tuple[Blocks, ...]:
    """The model's choice first, then others that it thinks nearly as quick.

    >>> device = Device(multiprocessors=132)
    >>> found = candidates_for(Scheme.parse("int4g64"), 4096, 4096, 1, device)
    >>> [one.splits for one in found]
    [8, 6, 16, 4]
    >>> [one.tokens for one in candidates_for(Scheme.parse("int4g64"), 4096, 4096, 512, device)]
    [128, 32, 64]
    """
    choice = blocks_of(scheme, rows, columns, tokens, device, precise=precise)
    if choice.many:
        sizes = [size for size in TOKENS if size < 2 * tokens]
        others = [blocks_of(scheme, rows, columns, size, device) for size in sizes]
        costs = [_tiles(one, rows, tokens, device) for one in (choice, *others)]
    else:
        panels = max(1, columns // panel_of(scheme))
        counts = sorted({-(-panels // -(-panels // n)) for n in range(1, panels + 1)})
        others = [replace(choice, splits=n, panels=-(-panels // n)) for n in counts]
        costs = [steps_alone((scheme, rows), one, columns, device) for one in (choice, *others)]
    ranked = sorted(zip(costs[1:], others, strict=True), key=lambda pair: pair[0])
    near = [one for cost, one in ranked if cost <= WITHIN * costs[0] and one != choice]
    return (choice, *dict.fromkeys(near))[:MOST]


def _tiles(blocks: Blocks, rows: int, tokens: int, device: Device) -> int:
    """What waves of tiles take, in numbers of outputs that a multiprocessor makes."""
    tiles = -(-rows // blocks.rows) * -(-tokens // blocks.tokens)
    return -(-tiles // device.multiprocessors) * blocks.rows * blocks.tokens


def seconds_of(run: Callable[[], object]) -> float:
    """The median time of a launch on the device."""
    found: Any = triton.testing.do_bench(run, warmup=10, rep=50, return_mode="median")
    return found / 1e3


@cache
def file_of(place: torch.device) -> Path:
    """Where what was found on a device is kept: in $BITPLAN_CACHE, or the user's cache."""
    root = Path(os.environ.get("BITPLAN_CACHE") or platformdirs.user_cache_dir("bitplan"))
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    words = re.sub(r"[^a-z0-9]+", "-", f"{name}-triton-{triton.__version__}".lower())
    return root / "tuned" / f"{words}.json"


_read: dict[Path, dict[str, list[int]]] = {}
"""What files hold, each read once."""


def _told(blocks: Blocks) -> list[int]:
    """What tells candidates apart."""
    return [blocks.tokens, blocks.splits]


def _kept(file: Path) -> dict[str, list[int]]:
    if file not in _read:
        _read[file] = _load(file)
    return _read[file]


def _load(file: Path) -> dict[str, list[int]]:
    """Nothing, of a file that is not there or is damaged: it is found again."""
    try:
        found = json.loads(read_text(file)) if file.is_file() else {}
    except (ValueError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(file: Path, key: str, told: list[int]) -> None:
    """Add to the file, and to what other processes have added meanwhile."""
    _kept(file)[key] = told
    _read[file] = {**_load(file), **_read[file]}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(_read[file], indent=1, sort_keys=True) + "\n")
    except (OSError, OutputError):
        return  # it is known to this process all the same

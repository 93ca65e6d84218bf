"""A latency table: the seconds that a layer takes in a scheme, as the caller timed them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from bitplan.allocator.wildcards import matching
from bitplan.errors import InputError, TableError
from bitplan.files import read_text
from bitplan.schema import CostTable, Kind, Layer, Scheme
from bitplan.schema import Record as _Record


class Latency(_Record):
    """Seconds per token of the layers of one name or wildcard, or of one kind and shape."""

    layer: str | None = Field(default=None, description="name or wildcard")
    kind: Kind | None = None
    shape: tuple[PositiveInt, ...] | None = None
    scheme: Scheme
    seconds: NonNegativeFloat

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.layer is None) == (self.kind is None and self.shape is None):
            raise ValueError("give either a layer, or a kind and a shape")
        if (self.kind is None) != (self.shape is None):
            raise ValueError("a kind needs a shape, and a shape a kind")
        return self


class Latencies(_Record):
    """All that was timed, and on which model, if that matters.

    The JSON is `{"entries": [{"kind": "linear", "shape": [576, 576], "scheme": "int4g64",
    "seconds": 2.1e-05}, {"layer": "lm_head", "scheme": "bf16", "seconds": 0.004}]}`. An entry for a
    layer counts before one for its kind and shape, and of several wildcards the last.
    """

    model_digest: str | None = Field(default=None, description="of the model; None: of any")
    entries: tuple[Latency, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen = set()
        for entry in self.entries:
            key = (entry.layer, entry.kind, entry.shape, entry.scheme)
            if key in seen:
                raise ValueError(f"{_words(entry)} has two times as {entry.scheme}")
            seen.add(key)
        return self

    @classmethod
    def of(cls, seconds: Mapping[tuple, float], *, model_digest: str | None = None) -> Self:
        """From {(layer, scheme): seconds}, {(kind, shape, scheme): seconds}, or both mixed.

        >>> Latencies.of({("lm_head", "int8s"): 0.002}).entries[0].seconds
        0.002
        """
        entries = []
        for key, value in seconds.items():
            if len(key) not in (2, 3):
                raise InputError(
                    f"The latency table has the key {key!r}. Write (layer, scheme) or "
                    "(kind, shape, scheme)."
                )
            names = ("layer", "scheme") if len(key) == 2 else ("kind", "shape", "scheme")
            entries.append(dict(zip(names, key, strict=True)) | {"seconds": value})
        return cls._read({"model_digest": model_digest, "entries": entries}, "This")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a JSON file. Raises `InputError` where there is none, or no latency table."""
        text = read_text(path)  # its error is a ValueError, too
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TableError(f"{path} is not the JSON of a latency table: {error}.") from None
        return cls._read(content, str(path))

    @classmethod
    def _read(cls, content: object, name: str) -> Self:
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise TableError(
                f"{name} is not a latency table: {where or 'it'}: {first['msg']}."
            ) from None

    def seconds(self, table: CostTable) -> dict[str, dict[str, float]]:
        """Layer -> scheme -> seconds, of what was timed of a cost table.

        Raises `TableError` for times of another model: its digest, or layers that are not here.
        """
        ours = table.provenance
        if self.model_digest is not None and self.model_digest != ours.model_digest:
            raise TableError(
                f"The latency table was timed on another model, of digest "
                f"{self.model_digest[:12]}; the cost table is of {ours.model}, "
                f"{ours.model_digest[:12]}. Give the one that belongs to this model."
            )
        layers = {row.layer.name: row.layer for row in table.rows}
        by_shape: dict[str, dict[str, float]] = {name: {} for name in layers}
        by_name: dict[str, dict[str, float]] = {name: {} for name in layers}
        for entry in self.entries:
            into = by_shape if entry.layer is None else by_name
            for name in _timed(entry, layers):
                into[name][str(entry.scheme)] = entry.seconds
        return {name: by_shape[name] | by_name[name] for name in layers}


def _timed(entry: Latency, layers: dict[str, Layer]) -> list[str]:
    if entry.layer is not None:
        return matching("latency table's layer", entry.layer, layers)
    # Of shapes that are not here nothing is needed: one table may serve many models.
    return [
        name for name, one in layers.items() if (one.kind, one.shape) == (entry.kind, entry.shape)
    ]


def _words(entry: Latency) -> str:
    if entry.layer is not None:
        return f"the layer {entry.layer!r}"
    return f"{entry.kind} {' x '.join(map(str, entry.shape or ()))}"

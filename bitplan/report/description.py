"""A model at a glance, as a table for a terminal."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bitplan.report import text
from bitplan.report.groups import group_names
from bitplan.schema import Layer

if TYPE_CHECKING:  # the models need torch, their table does not
    from bitplan.models.describe import Description, Rest, StoredLayer


def description_table(description: "Description") -> Table:
    """Layers by group, then what stays in full precision by reason; each with its bytes.

    Columns: group, number of layers, kind and shape, dtype, bytes, which modules share the storage
    and which groups runtimes fuse.
    """
    parameters = _count(description.parameters)
    view = Table(
        title=", ".join(dict.fromkeys([description.name, description.architecture, parameters])),
        caption=_caption(description),
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    view.add_column("layers", no_wrap=True)
    view.add_column("count", justify="right", no_wrap=True)
    view.add_column("kind and shape")
    view.add_column("dtype", no_wrap=True)
    view.add_column("bytes", justify="right", no_wrap=True)
    view.add_column("notes")
    everything = (*description.layers, *description.caches)
    names = group_names(stored.layer for stored in everything)
    groups: dict[str, list[StoredLayer]] = defaultdict(list)
    for stored in everything:
        groups[names[stored.layer.name]].append(stored)
    fused = _fused([stored.layer for stored in everything], names)
    for name, members in groups.items():
        view.add_row(*_layer_cells(name, members, fused[name]))
    view.add_section()
    reasons: dict[str, list[Rest]] = defaultdict(list)
    for item in description.rest:
        reasons[str(item.why)].append(item)
    for reason, items in reasons.items():
        view.add_row(*_rest_cells(reason, items), style="dim")
    view.add_section()
    whole = "model and cache" if description.caches else "whole model"
    view.add_row(whole, "", "", "", text.size(description.bytes), "", style="bold")
    return view


def _layer_cells(
    name: str, members: "Sequence[StoredLayer]", fused: Sequence[str]
) -> tuple[str, ...]:
    layers = [stored.layer for stored in members]
    shapes = dict.fromkeys(f"{layer.kind} {_shape(layer.shape)}" for layer in layers)
    notes = [f"shared with {', '.join(layer.tied)}" for layer in layers if layer.tied]
    if fused:
        notes.append(f"fused with {', '.join(fused)}")
    return (
        name,
        str(len(members)),
        _first(shapes, "shapes"),
        _first(dict.fromkeys(stored.dtype for stored in members), "dtypes"),
        text.size(sum(stored.bytes for stored in members)),
        _first(dict.fromkeys(notes), "notes"),
    )


def _rest_cells(reason: str, items: "Sequence[Rest]") -> tuple[str, ...]:
    return (
        "not compressed",
        str(len(items)),
        reason,
        _first(dict.fromkeys(item.dtype for item in items), "dtypes"),
        text.size(sum(item.bytes for item in items)),
        "",
    )


def _first(distinct: Sequence[str] | dict[str, None], noun: str) -> str:
    """All of two or fewer; else the first, and how many there are."""
    values = list(distinct)
    if len(values) <= 2:
        return ", ".join(values)
    return f"{values[0]}, ... ({len(values)} {noun})"


def _fused(layers: Sequence[Layer], names: dict[str, str]) -> dict[str, list[str]]:
    """For each group, the other groups with which runtimes fuse its layers."""
    together: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        if layer.fuse is not None:
            together[layer.fuse].add(names[layer.name])
    order = list(dict.fromkeys(names.values()))
    others: dict[str, set[str]] = {name: set() for name in order}
    for found in together.values():
        for name in found:
            others[name] |= found - {name}
    return {name: [other for other in order if other in others[name]] for name in order}


def _caption(description: "Description") -> str:
    if not description.layers:
        return "There is no layer to compress."
    blocks = {stored.layer.block for stored in description.layers} - {None}
    cache = " with the cache" if description.caches else ""
    caption = (
        f"{len(description.layers)} layers in {len(blocks)} blocks. Plans range from "
        f"{text.size(description.smallest_bytes)} to {text.size(description.largest_bytes)}{cache}."
    )
    return f"{caption} {description.no_cache}" if description.no_cache else caption


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _count(parameters: int) -> str:
    for unit, factor in (("billion", 10**9), ("million", 10**6)):
        if parameters >= factor:
            return f"{parameters / factor:.1f} {unit} parameters"
    return f"{parameters:,} parameters"

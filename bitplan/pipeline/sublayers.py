"""Whole sublayers in a table, where the scheme `none` is on the menu."""

from collections.abc import Mapping, Sequence

from bitplan.calibration import TokenSets, tokens_digest
from bitplan.errors import InputError
from bitplan.models import Inputs, find_sublayers
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet
from bitplan.schema import LEFT_OUT, Cost, Row, Scheme, Sublayer
from bitplan.sensitivity import removal_costs


def sublayers_of(workspace: Workspace, settings: Settings) -> tuple[Sublayer, ...]:
    """What may be left out: nothing, unless the menu has `none`.

    Raises `SchemeError` where it has, and the sublayers of the model are not known.
    """
    if not any(Scheme.parse(scheme).is_none for scheme in settings.schemes or ()):
        return ()
    return find_sublayers(workspace.model, workspace.layers)


def with_none(rows: Sequence[Row], costs: Mapping[str, Cost]) -> tuple[Row, ...]:
    """Rows of a table with `none` as one more scheme of the layers that have a cost in it."""
    return tuple(
        row.model_copy(update={"costs": (*row.costs, costs[row.layer.name])})
        if row.layer.name in costs
        else row
        for row in rows
    )


def costs_of_none(sublayers: Sequence[Sublayer]) -> dict[str, Cost]:
    """Of bytes alone, by layer name."""
    cost = Cost(scheme=Scheme.parse(LEFT_OUT), bytes=0, loss=0.0, standard_error=0.0)
    return {name: cost for sublayer in sublayers for name in sublayer.layers}


def measured_sublayers(
    workspace: Workspace, settings: Settings, tokens: TokenSets, progress: Progress = quiet
) -> tuple[tuple[Sublayer, ...], dict[str, Cost]]:
    """What may be left out, and what that costs, by layer name; it is kept in the work folder."""
    sublayers = sublayers_of(workspace, settings)
    if not sublayers:
        return (), {}
    inputs = Inputs.of(tokens.calibration)
    if inputs.ids is None or not inputs.is_text:
        raise InputError(
            f"What leaving out sublayers costs is measured on text, but the calibration is "
            f"{tokens.source}. Give text or tokens, or leave {LEFT_OUT} out of the schemes."
        )
    layers = {layer.name: layer for layer in workspace.layers}
    folder = workspace.folder / f"sublayers-{tokens_digest(tokens.calibration)[:16]}"
    return sublayers, removal_costs(
        workspace.model, sublayers, layers, inputs.ids, folder, progress=progress
    )

"""The rows of a table: measured, or predicted by a law from the widths that were."""

import math
from collections.abc import Mapping, Sequence

from bitplan.footprint import canonical
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer, Row, Scheme
from bitplan.sensitivity import Meter, fit, row_of

Legal = Mapping[Layer, tuple[Scheme, ...]]


def rows_in(
    workspace: Workspace, meter: Meter, settings: Settings, progress: Progress = quiet
) -> tuple[tuple[Row, ...], float | None]:
    """A row for each layer with all of its schemes, and the error of the law, if one was asked for.

    Raises `InputError` where too few widths are measured for the law.
    """
    legal = workspace.legal(settings.schemes)
    if settings.measured is None:
        rows, error = meter.rows(legal, progress=progress), None
    else:
        rows, error = _predicted(meter, legal, settings.measured, progress)
    return tuple(_with_share(row, meter) for row in rows), error


def _predicted(
    meter: Meter, legal: Legal, measured: Sequence[str | Scheme], progress: Progress
) -> tuple[tuple[Row, ...], float | None]:
    menu = [Scheme.parse(scheme) for scheme in measured]
    # What keeps a layer as it is costs nothing to measure.
    known = {
        layer: tuple(s for s in schemes if s.is_float or s in _fitting(menu, layer))
        for layer, schemes in legal.items()
    }
    meter.rows(known, progress=progress)
    law = fit({layer: meter.losses(layer, schemes) for layer, schemes in known.items()}, legal)
    rows = tuple(
        row_of(layer, losses, predicted=set(losses) - set(known[layer]))
        for layer, losses in law.losses.items()
    )
    return rows, None if math.isnan(law.error) else law.error


def _fitting(menu: list[Scheme], layer: Layer) -> set[Scheme]:
    return {canonical(scheme, layer.shape) for scheme in menu}


def _with_share(row: Row, meter: Meter) -> Row:
    share = meter.share_of_tokens(row.layer)
    return row.model_copy(update={"layer": row.layer.model_copy(update={"tokens": share})})

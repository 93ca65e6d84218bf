"""A row of the table, from what its schemes were found to cost."""

from collections.abc import Collection, Mapping
from itertools import combinations

from bitplan.footprint import scheme_bytes
from bitplan.schema import Cost, Layer, Row, Scheme
from bitplan.sensitivity.losses import Losses


def row_of(
    layer: Layer, losses: Mapping[Scheme, Losses], *, predicted: Collection[Scheme] = ()
) -> Row:
    """A row of the table from the losses of a layer's schemes, some of them predicted by a law."""
    same = {
        frozenset(pair)
        for pair in combinations(losses, 2)
        if not losses[pair[0]].is_separate_from(losses[pair[1]])
    }
    costs = (
        Cost(
            scheme=scheme,
            bytes=scheme_bytes(layer.shape, scheme),
            loss=found.loss,
            standard_error=found.standard_error,
            inseparable=tuple(s for s in losses if frozenset((s, scheme)) in same),
            predicted=scheme in predicted,
        )
        for scheme, found in losses.items()
    )
    return Row(layer=layer, costs=tuple(costs))

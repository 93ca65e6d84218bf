"""The cost table: what every scheme does to every layer."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

from pydantic import Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, model_validator

from bitplan.errors import InputError, TableError
from bitplan.schema.artefact import Artefact
from bitplan.schema.layer import Layer
from bitplan.schema.provenance import Provenance
from bitplan.schema.record import Record
from bitplan.schema.scheme import Scheme


class Cost(Record):
    """What one scheme does to one layer."""

    scheme: Scheme
    bytes: NonNegativeInt = Field(description="codes, scales, offsets and padding")
    loss: NonNegativeFloat = Field(description="expected increase of KL, nats per token")
    standard_error: NonNegativeFloat = Field(
        description="of the loss, nats per token, by the bootstrap over calibration sequences"
    )
    inseparable: tuple[Scheme, ...] = Field(
        default=(),
        description="schemes of this layer whose loss differs by less than two standard errors",
    )
    predicted: bool = Field(default=False, description="by a law, from widths that were measured")


class Row(Record):
    """One layer and the schemes that it may take."""

    layer: Layer
    costs: tuple[Cost, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [str(cost.scheme) for cost in self.costs]
        if len(set(names)) < len(names):
            raise ValueError(f"layer {self.layer.name} lists a scheme twice")
        return self


class Sublayer(Record):
    """Layers that are stored together or left out together: all of them are `none`, or none is.

    The KL of leaving them out is that of all at once, and stands with the last of them, which
    writes to the residual stream; the others lose nothing more.
    """

    name: str = Field(description="its module, as in the model")
    layers: tuple[str, ...] = Field(min_length=1)


class Interaction(Record):
    """What two layers in two schemes lose together beside the sum of their losses."""

    layer: str
    scheme: Scheme
    other: str = Field(description="another layer")
    other_scheme: Scheme
    loss: FiniteFloat = Field(description="nats per token; below zero: their errors cancel partly")


class CostTable(Artefact):
    """For every layer and legal scheme: exact bytes and expected loss. Measured once.

    The loss of a plan is the sum of its layers' losses and of the `interactions` of which it has
    both ends. A pair that is not listed adds nothing.
    """

    provenance: Provenance
    rest_bytes: NonNegativeInt = Field(description="all that no scheme touches: norms, biases, ...")
    law_error: NonNegativeFloat | None = Field(
        default=None,
        description="of the law behind predicted losses: root mean square error of their natural "
        "log, told from measured widths that lie between others",
    )
    rows: tuple[Row, ...] = Field(min_length=1)
    sublayers: tuple[Sublayer, ...] = Field(
        default=(), description="what may be left out, whole; each layer in one of them at most"
    )
    interactions: tuple[Interaction, ...] = Field(
        default=(),
        description="between layers; each pair of (layer, scheme) once, either way round",
    )

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """What tells tables apart at a prompt; the rows are too many to print."""
        made = self.provenance
        yield "model", made.model
        yield "layers", len(self.rows)
        yield "schemes", len({cost.scheme for row in self.rows for cost in row.costs})
        yield "estimator", made.estimator
        yield "quantizer", made.quantizer

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [row.layer.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError("a layer has two rows")
        return self

    @model_validator(mode="after")
    def _whole(self) -> Self:
        may_go = [row.layer.name for row in self.rows if any(c.scheme.is_none for c in row.costs)]
        if sorted(may_go) != sorted(name for one in self.sublayers for name in one.layers):
            raise ValueError(
                "its sublayers are not made of the layers that have the scheme none, each once"
            )
        return self

    @model_validator(mode="after")
    def _known_pairs(self) -> Self:
        if self.interactions:
            _check_pairs(self.rows, self.interactions)
        return self

    @classmethod
    def _error(cls) -> type[InputError]:
        return TableError


def _check_pairs(rows: Sequence[Row], interactions: Sequence[Interaction]) -> None:
    """Raise `ValueError` for a pair of what the rows do not have, of one layer, or given twice."""
    known = {(row.layer.name, cost.scheme) for row in rows for cost in row.costs}
    seen = set()
    for one in interactions:
        ends = (one.layer, one.scheme), (one.other, one.other_scheme)
        for layer, scheme in ends:
            if (layer, scheme) not in known:
                raise ValueError(
                    f"an interaction names {layer} as {scheme}, which the table does not have"
                )
        if one.layer == one.other:
            raise ValueError(f"{one.layer} interacts with itself: add that to its losses instead")
        pair = frozenset(ends)
        if pair in seen:
            raise ValueError(
                f"the interaction of {one.layer} as {one.scheme} with {one.other} as "
                f"{one.other_scheme} is given twice: give the sum of both, once"
            )
        seen.add(pair)

"""The cost table: what every scheme does to every layer."""

from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

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


class CostTable(Artefact):
    """For every layer and legal scheme: exact bytes and expected loss. Measured once."""

    provenance: Provenance
    rest_bytes: NonNegativeInt = Field(description="all that no scheme touches: norms, biases, ...")
    law_error: NonNegativeFloat | None = Field(
        default=None,
        description="of the law behind predicted losses: root mean square error of their natural "
        "log, told from measured widths that lie between others",
    )
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [row.layer.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError("a layer has two rows")
        return self

    @classmethod
    def _error(cls) -> type[InputError]:
        return TableError

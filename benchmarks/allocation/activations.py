"""What two peers' scores read: the plain input covariance X'X of every linear, as calibrated."""

import json
import time
from dataclasses import dataclass

import torch
from jaxtyping import Float
from progress import told
from torch import Tensor

from bitplan.calibration import TokenSets, tokens_digest
from bitplan.files import write_text
from bitplan.models import Inputs, weight_of
from bitplan.pipeline import Workspace
from bitplan.schema import CostTable, Kind

ESTIMATOR = "output_error"
MOMENT = "inputs"


@dataclass(frozen=True, kw_only=True)
class Activations:
    """By layer and scheme, of the weights as rendered.

    `relative` is tr(dW X'X dW') / tr(W X'X W'), the squared error of the layer's output over its
    square. `traced` is mean(x^2) |dW|^2, for which only the size of the inputs matters. A layer
    that no token reaches has neither.
    """

    relative: dict[tuple[str, str], float]
    traced: dict[tuple[str, str], float]
    seconds: float | None  # None: a part of it was there before
    tokens: int

    @classmethod
    def of(
        cls, workspace: Workspace, tokens: TokenSets, table: CostTable, quantizer: str
    ) -> "Activations":
        """From the work folder, where it is there. The model must have its own weights."""
        key = tokens_digest(tokens.calibration)[:16]
        path = workspace.folder / f"activations-{key}-{quantizer}.json"
        if not path.is_file():
            write_text(path, json.dumps(_measured(workspace, tokens, table, quantizer)))
        found = json.loads(path.read_text())
        return cls(
            relative={(layer, scheme): loss for layer, scheme, loss, _ in found["rows"]},
            traced={(layer, scheme): loss for layer, scheme, _, loss in found["rows"]},
            seconds=found["seconds"],
            tokens=Inputs.of(tokens.calibration).tokens,
        )


def _measured(
    workspace: Workspace, tokens: TokenSets, table: CostTable, quantizer: str
) -> dict[str, object]:
    folder, start = workspace.statistics(tokens, "data"), time.perf_counter()
    is_fresh = not any(folder.find(layer, MOMENT) for layer in workspace.layers)
    meter = workspace.meter(
        tokens, estimator=ESTIMATOR, quantizer=quantizer, progress=told("activations")
    )
    rows = []
    for row in table.rows:
        if row.layer.kind is Kind.EMBEDDING:
            continue
        schemes = [cost.scheme for cost in row.costs]
        weight = weight_of(workspace.model, row.layer).float()
        statistics = meter.statistics["data"].completed(row.layer, (MOMENT,))
        inputs = statistics[MOMENT]["inputs"]
        mean_square = inputs.diagonal().mean().item() / statistics.tokens
        own = _square(weight, inputs)
        if not own > 0:
            continue
        for packed in meter.packed(row.layer, schemes):
            error = packed.decode(weight.dtype) - weight
            rows.append(
                [
                    row.layer.name,
                    str(packed.scheme),
                    _square(error, inputs) / own,
                    mean_square * error.square().sum().item(),
                ]
            )
    return {"seconds": time.perf_counter() - start if is_fresh else None, "rows": rows}


def _square(matrix: Float[Tensor, "out in"], inputs: Float[Tensor, "in in"]) -> float:
    """tr(M X'X M')."""
    return ((matrix @ inputs) * matrix).sum(dtype=torch.float64).item()

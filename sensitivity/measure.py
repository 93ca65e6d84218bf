"""Model + schemes + statistics -> rows of a cost table: each layer rendered, each error judged."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from bitplan.compress import Store, render
from bitplan.errors import InputError
from bitplan.files import make_folder, read_text, write_text
from bitplan.formats import Packed
from bitplan.models import weight_of
from bitplan.progress import Progress, quiet
from bitplan.schema import Cost, Layer, Row, Scheme
from bitplan.sensitivity.estimators import estimate
from bitplan.sensitivity.statistics import LayerStatistics, StatisticsFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Meter:
    """Renders the weights of one model with one quantizer, and judges them with one estimator.

    What is rendered goes to `store`, and each layer's costs beside it as they are found: an
    interrupted run goes on with the next layer, and another scheme renders only itself.
    """

    model: nn.Module
    statistics: StatisticsFile
    store: Store
    quantizer: str
    estimator: str

    def rows(
        self, schemes: Mapping[Layer, Sequence[Scheme]], *, progress: Progress = quiet
    ) -> tuple[Row, ...]:
        """A row for each layer, with its schemes in the order given."""
        rows, done = [], 0
        total = sum(layer.parameters for layer in schemes)
        for layer, legal in schemes.items():
            progress("measure", done, total)
            rows.append(Row(layer=layer, costs=self.costs(layer, legal)))
            done += layer.parameters
        progress("measure", total, total)
        return tuple(rows)

    def costs(self, layer: Layer, schemes: Sequence[Scheme]) -> tuple[Cost, ...]:
        """The cost of each scheme for one layer."""
        shard = self.store.folder / "costs" / self.estimator / f"{layer.name}.json"
        known = _read(shard)
        if any(str(s) not in known or not self.store.path(layer, s).is_file() for s in schemes):
            statistics = self.statistics[layer.name].completed()
            if not statistics.reached.any():
                log.warning(
                    "Calibration never reached %s: its relative weight error, in nats, stands for "
                    "its loss. Give text that makes the model use it.",
                    layer.name,
                )
            for packed in self.packed(layer, schemes, statistics):
                if str(packed.scheme) not in known:
                    known[str(packed.scheme)] = self._cost(layer, packed, statistics)
            _write(shard, known)
        return tuple(known[str(scheme)] for scheme in schemes)

    def packed(
        self,
        layer: Layer,
        schemes: Sequence[Scheme],
        statistics: LayerStatistics | None = None,
    ) -> list[Packed]:
        """The layer's weight in each scheme, from the store or rendered into it."""
        stored = {scheme: self.store.get(layer, scheme) for scheme in schemes}
        missing = [scheme for scheme, packed in stored.items() if packed is None]
        if missing:
            statistics = statistics or self.statistics[layer.name].completed()
            rendered = render(
                weight_of(self.model, layer),
                missing,
                quantizer=self.quantizer,
                covariance=statistics.covariance / self.statistics.tokens,
            )
            for packed in rendered.values():
                self.store.put(layer, packed)
            stored |= rendered
        return [packed for packed in stored.values() if packed is not None]

    @torch.no_grad()
    def _cost(self, layer: Layer, packed: Packed, statistics: LayerStatistics) -> Cost:
        dense = weight_of(self.model, layer)
        weight = dense.float()
        # What runs is the decoded weight in the model's own dtype.
        error = packed.decode(dense.dtype).float().sub_(weight)
        found = estimate(self.estimator, error, weight, statistics, self.statistics.tokens)
        return Cost(
            scheme=packed.scheme,
            bytes=packed.nbytes,
            loss=found.loss,
            standard_error=found.standard_error,
        )


def _read(shard: Path) -> dict[str, Cost]:
    if not shard.is_file():
        return {}
    try:
        known = json.loads(read_text(shard))
        return {name: Cost.model_validate(cost) for name, cost in known.items()}
    except (json.JSONDecodeError, AttributeError, InputError, ValidationError):
        return {}  # damaged: found again


def _write(shard: Path, costs: Mapping[str, Cost]) -> None:
    make_folder(shard.parent)
    write_text(
        shard, json.dumps({name: cost.model_dump(mode="json") for name, cost in costs.items()})
    )

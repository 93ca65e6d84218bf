"""Model + schemes + statistics -> rows of a cost table: each layer rendered, each error judged."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from bitplan.compress import Store, reads_covariance
from bitplan.errors import InputError
from bitplan.footprint import scheme_bytes
from bitplan.formats import Packed
from bitplan.memory import release
from bitplan.models import weight_of
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer, Row, Scheme
from bitplan.sensitivity.engines import AbstractEngine, choose_engine, get_engine
from bitplan.sensitivity.estimators import (
    AbstractEstimator,
    AbstractModelEstimator,
    Bench,
    Estimator,
)
from bitplan.sensitivity.estimators.model_estimator import Schemes
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.portions import portions
from bitplan.sensitivity.row import row_of
from bitplan.sensitivity.shards import Shards
from bitplan.sensitivity.statistics import LayerStatistics, StatisticsFolder
from bitplan.sensitivity.task import LayerResult, LayerTask, run_task

log = logging.getLogger(__name__)

RENDERED_BYTES = 1 << 30
"""Of one layer in several schemes, held in memory at a time; a scheme that takes more is alone."""


@dataclass(frozen=True, kw_only=True)
class Meter:
    """Renders the weights of one model with one quantizer, and judges them with one estimator.

    What is rendered goes to `store`, and what each scheme costs to a shard beside it, as it is
    found: an interrupted run goes on with what is missing, and another scheme renders only itself.
    `statistics` holds what the quantizer and the estimator read, by labels. `engine` is a name of
    `bitplan.sensitivity.engines`: where the work is done makes no difference to what comes of it.
    """

    model: nn.Module
    statistics: Mapping[str, StatisticsFolder]
    store: Store
    shards: Shards
    quantizer: str
    estimator: Estimator
    bench: Bench | None = None
    engine: str = "serial"
    workers: int | None = None

    def rows(self, schemes: Schemes, *, progress: Progress = quiet) -> tuple[Row, ...]:
        """A row for each layer, with its schemes in the order given.

        `progress` counts the weights that are to be rendered, once in each scheme.
        """
        rows, unjudged = self._known_rows(schemes)
        lacking = self._lacking(schemes, unjudged)
        done, total = 0, _weights_of(lacking)
        with self._engine_for(lacking) as engine:
            for result in engine.map(run_task, self._tasks(lacking)):
                progress("measure", done, total)
                self._keep(result)
                release([weight_of(self.model, result.layer)])
                done += result.layer.parameters * len(result.rendered | result.losses)
        progress("measure", total, total)
        self._judge_on_model(unjudged)
        for layer in unjudged:
            rows[layer] = row_of(layer, self.losses(layer, schemes[layer]))
        return tuple(rows[layer] for layer in schemes)

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """The moments that quantizer and estimator read, by the labels they are gathered with."""
        needs: dict[str, set[str]] = {}
        if reads_covariance(self.quantizer):
            needs["data"] = {"covariance"}
        if isinstance(self.estimator, AbstractEstimator) and self.estimator.moments:
            labels = self.estimator.labels
            needs[labels] = needs.get(labels, set()) | set(self.estimator.moments)
        return {labels: tuple(sorted(moments)) for labels, moments in needs.items()}

    def packed(self, layer: Layer, schemes: Sequence[Scheme]) -> list[Packed]:
        """The layer's weight in each scheme, from the store or rendered into it."""
        stored = {scheme: self.store.get(layer, scheme) for scheme in schemes}
        missing = [scheme for scheme, packed in stored.items() if packed is None]
        if missing:
            result = run_task(self._task(layer, missing, judged=False))
            self._keep(result)
            stored |= result.rendered
        return [packed for packed in stored.values() if packed is not None]

    def _known_rows(self, schemes: Schemes) -> tuple[dict[Layer, Row], Schemes]:
        """The rows of layers that are judged, and of all others what is to be judged.

        Every shard is read once, and what it holds is kept no longer than its row takes to make.
        """
        rows, unjudged = {}, {}
        for layer, legal in schemes.items():
            known = self._known(layer, legal)
            missing = [scheme for scheme in legal if scheme not in known]
            if missing:
                unjudged[layer] = missing
            else:
                rows[layer] = row_of(layer, known)
        estimator = self.estimator
        if unjudged and isinstance(estimator, AbstractModelEstimator) and estimator.jointly:
            return {}, schemes
        return rows, unjudged

    def _lacking(self, schemes: Schemes, unjudged: Schemes) -> Schemes:
        """What is to be rendered, or judged from its rendering: no layer without schemes."""
        if isinstance(self.estimator, AbstractEstimator):
            return unjudged
        # Where the model is the judge, that is asked when all is rendered.
        lacking = {}
        for layer, legal in schemes.items():
            missing = [s for s in legal if not self.store.path(layer, s).is_file()]
            if missing:
                lacking[layer] = missing
        return lacking

    def _engine_for(self, lacking: Schemes) -> AbstractEngine:
        if self.engine != "auto":
            return get_engine(self.engine, workers=self.workers)
        name, why = choose_engine(
            _weights_of(lacking),
            workers=self.workers,
            largest=max((layer.parameters for layer in lacking), default=0),
        )
        log.info("The engine is %s: %s", name, why)
        return get_engine(name, workers=self.workers)

    def share_of_tokens(self, layer: Layer) -> float:
        """The share of tokens that reach a matrix of the layer, a mean over its experts."""
        if not self.needs:
            return layer.tokens  # nothing was gathered
        labels, moments = next(iter(self.needs.items()))
        found = self.statistics[labels].read(layer, moments)
        # A tied embedding sees each token twice.
        return min(1.0, found.rows.double().mean().item() / found.tokens)

    def _tasks(self, lacking: Schemes) -> Iterator[LayerTask]:
        for layer, schemes in lacking.items():
            for portion in portions(
                schemes, lambda s, layer=layer: scheme_bytes(layer.shape, s), RENDERED_BYTES
            ):
                yield self._task(layer, portion, judged=True)

    def _judge_on_model(self, unjudged: Schemes) -> None:
        if not (unjudged and isinstance(self.estimator, AbstractModelEstimator)):
            return
        assert self.bench is not None
        for layer, losses in self.estimator.judge(self.bench, unjudged):
            for scheme, found in losses.items():
                self.shards.put(layer, scheme, found)
        self.bench.through.close()

    def _task(self, layer: Layer, schemes: Sequence[Scheme], *, judged: bool) -> LayerTask:
        stored = {scheme: self.store.get(layer, scheme) for scheme in schemes}
        known = {scheme: packed for scheme, packed in stored.items() if packed is not None}
        rendering, statistics, estimator = None, None, None
        if reads_covariance(self.quantizer) and len(known) < len(schemes):
            rendering = self.statistics["data"].completed(layer, ("covariance",))
        if judged and isinstance(self.estimator, AbstractEstimator):
            estimator = self.estimator
            statistics = self._statistics_for(estimator, layer, rendering)
        return LayerTask(
            layer=layer,
            weight=weight_of(self.model, layer),
            schemes=tuple(schemes),
            known=known,
            quantizer=self.quantizer,
            rendering=rendering,
            estimator=estimator,
            statistics=statistics,
        )

    def _statistics_for(
        self, estimator: AbstractEstimator, layer: Layer, rendering: LayerStatistics | None
    ) -> LayerStatistics | None:
        """What an estimator reads of a layer; None where nothing was gathered."""
        # Whatever is read, any moment tells which experts were reached.
        moments = estimator.moments or self.needs.get(estimator.labels, ())
        if not moments:
            return None
        folder = self.statistics[estimator.labels]
        is_shared = (estimator.labels, moments) == ("data", ("covariance",))
        shared = rendering if is_shared else None  # what both read is sent once
        return shared or folder.completed(layer, moments)

    def _keep(self, result: LayerResult) -> None:
        for packed in result.rendered.values():
            self.store.put(result.layer, packed)
        for scheme, losses in result.losses.items():
            self.shards.put(result.layer, scheme, losses)

    def losses(self, layer: Layer, schemes: Iterable[Scheme]) -> dict[Scheme, Losses]:
        """What schemes of a layer were found to cost; raises `InputError` where that is lost."""
        schemes = tuple(schemes)
        known = self._known(layer, schemes)
        if len(known) < len(schemes):
            raise InputError(
                f"Costs of {layer.name} in {self.shards.folder} were removed or damaged while they "
                "were in use. Run the same command again: it measures what is missing."
            )
        return known

    def _known(self, layer: Layer, schemes: Iterable[Scheme]) -> dict[Scheme, Losses]:
        found = {scheme: self.shards.get(layer, scheme) for scheme in schemes}
        return {scheme: losses for scheme, losses in found.items() if losses is not None}


def _weights_of(schemes: Schemes) -> int:
    return sum(layer.parameters * len(wanted) for layer, wanted in schemes.items())

"""Model + schemes + statistics -> rows of a cost table: each layer rendered, each error judged."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor, nn

from bitplan.compress import Store, reads_covariance
from bitplan.errors import InputError
from bitplan.footprint import scheme_bytes
from bitplan.formats import Packed
from bitplan.memory import release
from bitplan.models import weight_of
from bitplan.progress import Progress, quiet
from bitplan.schema import Cost, Layer, Row, Scheme
from bitplan.sensitivity.engines import AbstractEngine, choose_engine, get_engine
from bitplan.sensitivity.estimators import (
    AbstractEstimator,
    AbstractModelEstimator,
    Bench,
    Estimator,
)
from bitplan.sensitivity.losses import Losses
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

    def rows(
        self, schemes: Mapping[Layer, Sequence[Scheme]], *, progress: Progress = quiet
    ) -> tuple[Row, ...]:
        """A row for each layer, with its schemes in the order given."""
        done, total = 0, sum(layer.parameters for layer in schemes)
        with self._engine_for(schemes) as engine:
            for result in engine.map(run_task, self._tasks(schemes)):
                progress("measure", done, total)
                self._keep(result)
                release([weight_of(self.model, result.layer)])
                done += result.layer.parameters
        progress("measure", total, total)
        self._judge_on_model(schemes)
        return tuple(row_of(layer, self.losses(layer, legal)) for layer, legal in schemes.items())

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

    def _engine_for(self, schemes: Mapping[Layer, Sequence[Scheme]]) -> AbstractEngine:
        if self.engine != "auto":
            return get_engine(self.engine, workers=self.workers)
        lacking = (
            layer.parameters
            for layer, legal in schemes.items()
            for scheme in legal
            if not self._is_done(layer, scheme)
        )
        name, why = choose_engine(
            sum(lacking),
            workers=self.workers,
            largest=max(layer.parameters for layer in schemes),
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

    def _tasks(self, schemes: Mapping[Layer, Sequence[Scheme]]) -> Iterator[LayerTask]:
        for layer, legal in schemes.items():
            lacking = [s for s in legal if not self._is_done(layer, s)]
            for portion in _portions(layer, lacking):
                yield self._task(layer, portion, judged=True)

    def _is_done(self, layer: Layer, scheme: Scheme) -> bool:
        is_rendered = self.store.path(layer, scheme).is_file()
        if isinstance(self.estimator, AbstractModelEstimator):
            return is_rendered  # judged on the model, when all is rendered
        return is_rendered and self.shards.get(layer, scheme) is not None

    def _judge_on_model(self, schemes: Mapping[Layer, Sequence[Scheme]]) -> None:
        if not isinstance(self.estimator, AbstractModelEstimator):
            return
        assert self.bench is not None
        lacking = {
            layer: missing
            for layer, legal in schemes.items()
            if (missing := [s for s in legal if self.shards.get(layer, s) is None])
        }
        if lacking:
            asked = schemes if self.estimator.jointly else lacking
            for layer, losses in self.estimator.judge(self.bench, asked):
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
        statistics, seen = shared or folder.completed(layer, moments), folder.read(layer, moments)
        _warn_if_unreached(layer, ~seen.reached, is_guess=not statistics.reached.any())
        return statistics

    def _keep(self, result: LayerResult) -> None:
        for packed in result.rendered.values():
            self.store.put(result.layer, packed)
        for scheme, losses in result.losses.items():
            self.shards.put(result.layer, scheme, losses)

    def losses(self, layer: Layer, schemes: Iterable[Scheme]) -> dict[Scheme, Losses]:
        """What schemes of a layer were found to cost; raises `InputError` where that is lost."""
        found = {scheme: self.shards.get(layer, scheme) for scheme in schemes}
        known = {scheme: losses for scheme, losses in found.items() if losses is not None}
        if len(known) < len(found):
            raise InputError(
                f"Costs of {layer.name} in {self.shards.folder} were removed or damaged while they "
                "were in use. Run the same command again: it measures what is missing."
            )
        return known


def _portions(layer: Layer, schemes: Sequence[Scheme]) -> Iterator[list[Scheme]]:
    """The schemes in order, as many at a time as may be held rendered."""
    portion: list[Scheme] = []
    held = 0
    for scheme in schemes:
        size = scheme_bytes(layer.shape, scheme)
        if portion and held + size > RENDERED_BYTES:
            yield portion
            portion, held = [], 0
        portion.append(scheme)
        held += size
    if portion:
        yield portion


def row_of(
    layer: Layer, losses: Mapping[Scheme, Losses], *, predicted: Collection[Scheme] = ()
) -> Row:
    """A row of the table from the losses of a layer's schemes, some of them predicted by a law."""
    costs = []
    for scheme, found in losses.items():
        same = [
            s for s, other in losses.items() if s != scheme and not found.is_separate_from(other)
        ]
        costs.append(
            Cost(
                scheme=scheme,
                bytes=scheme_bytes(layer.shape, scheme),
                loss=found.loss,
                standard_error=found.standard_error,
                inseparable=tuple(same),
                predicted=scheme in predicted,
            )
        )
    return Row(layer=layer, costs=tuple(costs))


def _warn_if_unreached(layer: Layer, unreached: Bool[Tensor, "*experts"], is_guess: bool) -> None:
    if not unreached.any():
        return
    count = f"{int(unreached.sum())} of {unreached.numel()} experts of "
    which = "" if unreached.all() else count
    stands_in = f"the mean of {'the others' if which else 'the experts beside it'} stands in"
    if is_guess:
        stands_in = "its relative weight error, in nats, stands for its loss"
    log.warning(
        "Calibration never reached %s%s: %s. Give text that makes the model use it.",
        which,
        layer.name,
        stands_in,
    )

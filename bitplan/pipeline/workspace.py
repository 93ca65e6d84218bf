"""A model being worked on, and the folder where the work on it is kept."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import platformdirs
from torch import Tensor, nn

from bitplan.calibration import (
    Calibration,
    Counts,
    TokenSets,
    has_tokens,
    prepare,
    sources_of,
    tokens_digest,
)
from bitplan.compress import RENDERING, Bound, Store
from bitplan.errors import SchemeError
from bitplan.files import make_folder, remove_stale
from bitplan.footprint import FLOAT_OF_DTYPE, default_schemes, legal_schemes
from bitplan.models import (
    Description,
    Source,
    check_dtypes,
    check_finite,
    describe,
    find_layers,
    load_model,
    load_tokenizer,
    model_digest,
    weight_of,
)
from bitplan.names import EACH, TOGETHER
from bitplan.pipeline.fingerprint import fingerprint, short_digest
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer, Scheme, of_each_expert
from bitplan.sensitivity import (
    GATHERED,
    LABELS,
    AbstractModelEstimator,
    AbstractPass,
    Bench,
    Meter,
    Shards,
    StatisticsFolder,
    gather,
    get_estimator,
    open_pass,
)


def default_workdir() -> Path:
    """$BITPLAN_CACHE/work, else `work` in bitplan's folder in the user's cache."""
    return Path(os.environ.get("BITPLAN_CACHE") or platformdirs.user_cache_dir("bitplan")) / "work"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One model: its layers, and its own folder within a work folder.

    All that is costly is kept there under a digest of what made it: tokens, statistics, compressed
    weights, costs, measurements. The same call goes on where an earlier one stopped.
    """

    source: Source
    model: nn.Module
    layers: tuple[Layer, ...]
    digest: str
    folder: Path
    tokenizer: Any = None
    experts: str = TOGETHER

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        workdir: str | Path | None = None,
        dtype: str = "auto",
        tokenizer: Any = None,
        experts: str = TOGETHER,
        progress: Progress = quiet,
    ) -> "Workspace":
        """Load a model, check its weights, find its folder.

        That is the same however `experts` of one tensor are taken.
        """
        progress("load", 0, 1)
        model = load_model(source, dtype=dtype)
        layers = find_layers(model)
        check_dtypes(model)
        check_finite(model, layers)
        digest = model_digest(model, layers)
        progress("load", 1, 1)
        folder = Path(workdir or default_workdir()) / fingerprint(model, layers, digest)
        remove_stale(make_folder(folder))
        return cls(
            source=source,
            model=model,
            layers=of_each_expert(layers) if experts == EACH else layers,
            digest=digest,
            folder=folder,
            tokenizer=tokenizer,
            experts=experts,
        )

    @cached_property
    def description(self) -> Description:
        """Layers, rest and bytes of the model."""
        return describe(self.model, experts=self.experts)

    @property
    def dtype(self) -> str:
        """torch dtype of what stays in full precision."""
        return self.description.dtype

    def legal(self, schemes: Iterable[str | Scheme] | None) -> dict[Layer, tuple[Scheme, ...]]:
        """The schemes of a menu that each layer may take, the default menu for None.

        Raises `SchemeError` for a menu that leaves a layer without one.
        """
        dtypes = {stored.layer.name: stored.dtype for stored in self.description.layers}
        menu = None if schemes is None else [Scheme.parse(scheme) for scheme in schemes]
        legal = {
            layer: legal_schemes(
                layer,
                dtypes[layer.name],
                default_schemes(dtypes[layer.name]) if menu is None else menu,
            )
            for layer in self.layers
        }
        for layer, choices in legal.items():
            if not choices:
                raise SchemeError(
                    f"{layer.name} is stored in {dtypes[layer.name]}, and of the schemes "
                    f"{', '.join(map(str, menu or ()))} none is smaller. Add an integer scheme."
                )
        return legal

    def kept(self) -> dict[str, Scheme]:
        """The scheme that keeps each layer as it is."""
        return {s.layer.name: kept_scheme(s.dtype) for s in self.description.layers}

    def tokens(
        self,
        calibration: Calibration,
        *,
        counts: Counts,
        seed: int,
        temperature: float = 1.0,
        progress: Progress = quiet,
    ) -> TokenSets:
        """Token sets; what is sampled from the model is kept."""
        tokenizer = self.tokenizer
        if tokenizer is None and not isinstance(self.source, nn.Module):
            is_tokens = all(map(has_tokens, sources_of(calibration)))
            tokenizer = None if is_tokens else load_tokenizer(self.source)
        key = short_digest(counts, seed, temperature)
        return prepare(
            calibration,
            model=self.model,
            counts=counts,
            tokenizer=tokenizer,
            seed=seed,
            temperature=temperature,
            kept=self.folder / f"sampled-{key}.safetensors",
            progress=progress,
        )

    def meter(
        self,
        tokens: TokenSets,
        *,
        estimator: str,
        quantizer: str,
        engine: str = "serial",
        workers: int | None = None,
        through: str = "auto",
        menu: object = None,
        store_gb: float | None = None,
        progress: Progress = quiet,
    ) -> Meter:
        """What renders and judges this model's weights; gathers the statistics that it needs.

        `through` is one of `bitplan.sensitivity.PASSES`; `menu` is what an estimator that judges
        all schemes jointly is asked for, whose costs hold for that alone. `store_gb` bounds the
        compressed weights in the work folder, unless the estimator needs them all at once.
        """
        found = get_estimator(estimator)
        on_model = isinstance(found, AbstractModelEstimator)
        bound = None
        if store_gb is not None and not on_model:
            bound = Bound(self.folder.parent, round(store_gb * 1e9))
        store = self.store(tokens_digest(tokens.calibration), quantizer, bound)
        is_joint = on_model and found.jointly
        costs = f"{estimator}-{found.version}"
        if is_joint:
            costs += f"-{short_digest(menu)}"
        opened = partial(self._pass, tokens, name=through, progress=progress)
        meter = Meter(
            model=self.model,
            statistics={labels: self.statistics(tokens, labels) for labels in LABELS},
            store=store,
            shards=Shards(folder=store.folder / "costs" / costs),
            quantizer=quantizer,
            estimator=found,
            bench=Bench(
                model=self.model,
                tokens=tokens.calibration,
                through=opened(found.labels, ()),
                decode=partial(_decode, self.model, store),
                progress=progress,
            )
            if on_model
            else None,
            engine=engine,
            workers=workers,
        )
        for labels, moments in meter.needs.items():
            folder = meter.statistics[labels]
            if folder.lacking(self.layers, moments):
                gather(self.layers, moments, opened(labels, moments), folder)
        return meter

    def _pass(
        self,
        tokens: TokenSets,
        labels: str,
        moments: Iterable[str],
        *,
        name: str,
        progress: Progress,
    ) -> AbstractPass:
        return open_pass(
            name,
            model=self.model,
            layers=self.layers,
            moments=moments,
            tokens=tokens.calibration,
            labels=labels,
            folder=self.statistics(tokens, labels).folder / "activations",
            progress=progress,
        )

    def statistics(self, tokens: TokenSets, labels: str) -> StatisticsFolder:
        """The statistics gathered over one set of calibration tokens, with one kind of labels."""
        key = tokens_digest(tokens.calibration)[:16]
        return StatisticsFolder(
            folder=self.folder / f"statistics-{key}-{labels}-{GATHERED}",
            sequences=len(tokens.calibration),
        )

    def store(self, calibration_digest: str, quantizer: str, bound: Bound | None = None) -> Store:
        """The compressed weights made with one quantizer and one set of calibration tokens."""
        name = f"weights-{calibration_digest[:16]}-{quantizer}-{RENDERING}"
        return Store(self.folder / name, bound)


def _decode(model: nn.Module, store: Store, layer: Layer, scheme: Scheme) -> Tensor:
    return store.require(layer, scheme).decode(weight_of(model, layer).dtype)


def kept_scheme(dtype: str) -> Scheme:
    """The scheme that keeps what is stored in a dtype as it is."""
    return Scheme.parse(FLOAT_OF_DTYPE[dtype])

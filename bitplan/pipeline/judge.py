"""The KL of whole plans, measured on the model itself with its weights swapped."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from bitplan.calibration import tokens_digest
from bitplan.errors import InternalError
from bitplan.evaluate import Divergence, Reference, compare, make_reference
from bitplan.files import read_text, write_text
from bitplan.formats import Packed
from bitplan.models import Inputs, rounded_caches, weight_of
from bitplan.pipeline.crew import Crew, crew_for
from bitplan.pipeline.fingerprint import short_digest
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity import Meter

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Judge:
    """Measures plans of one model against the model as it was, and remembers what it measured.

    Several plans, and batches of one, are measured side by side where the meter's engine and
    workers say so (`bitplan.pipeline.crew`); what comes of it is the same, to the last bit.
    Use it within `with judge.borrowed():`, which puts the model's own weights back at the end.
    """

    workspace: Workspace
    meter: Meter
    tokens: Mapping[str, Int[Tensor, "sequences length"] | Inputs]
    progress: Progress = quiet
    _references: dict[str, Reference] = field(default_factory=dict)
    _current: dict[str, Scheme | None] = field(default_factory=dict)
    _crew: Crew | None = None
    _is_alone: bool | None = None  # whether there is no crew; None: not asked yet

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Take the references, then let the weights be swapped within the block."""
        kept = self.workspace.kept()
        for layer in self.workspace.layers:
            self._keep(layer, kept[layer.name])
        for name, tokens in self.tokens.items():
            self._references[name] = make_reference(
                self.workspace.model, tokens, self.workspace.folder, progress=self.progress
            )
        self._current = dict(kept)
        try:
            yield
        finally:
            self._give_back(kept)
            self._references.clear()
            crew, self._crew, self._is_alone = self._crew, None, None
            if crew is not None:
                crew.close()

    def _keep(self, layer: Layer, scheme: Scheme) -> None:
        """Put the original weight into the store: swapped out, it is nowhere else."""
        weight = weight_of(self.workspace.model, layer)
        stored = self.meter.store.get(layer, scheme)
        if stored is None or not torch.equal(stored.decode(weight.dtype), weight):
            self.meter.store.put(layer, Packed.cast(scheme, weight))

    def _give_back(self, kept: Mapping[str, Scheme]) -> None:
        """Put the original weights back, however often the user is in a hurry."""
        interrupt = None
        while any(self._current[name] != scheme for name, scheme in kept.items()):
            try:
                self.swap(kept)
            except KeyboardInterrupt as again:
                interrupt = again
        if interrupt is not None:
            raise interrupt

    def reference(self, name: str) -> Reference:
        """What the model as it was says of a set of tokens."""
        return self._references[name]

    def measure(
        self, assignment: Mapping[str, Scheme], name: str, sequences: Sequence[int] | None = None
    ) -> Divergence:
        """The divergence of a plan over a set of tokens, or over some sequences of it."""
        [found] = self.measure_many([assignment], name, sequences)
        return found

    def measure_many(
        self,
        assignments: Sequence[Mapping[str, Scheme]],
        name: str,
        sequences: Sequence[int] | None = None,
    ) -> list[Divergence]:
        """The divergence of each plan; those that are not known may be measured side by side."""
        tokens = Inputs.of(self.tokens[name])
        chosen = list(range(len(tokens)) if sequences is None else sequences)
        paths = [
            self.path("measured", tokens[chosen], each).with_suffix(".json") for each in assignments
        ]
        found = {path: _read(path) for path in paths}
        missing = {
            path: assignment
            for path, assignment in zip(paths, assignments, strict=True)
            if found[path] is None
        }
        for path, divergence in zip(
            missing, self._measured(list(missing.values()), name, chosen), strict=True
        ):
            found[path] = divergence
            write_text(path, _dump(divergence))
        return [divergence for path in paths if (divergence := found[path]) is not None]

    def _measured(
        self, assignments: Sequence[Mapping[str, Scheme]], name: str, sequences: Sequence[int]
    ) -> Iterator[Divergence]:
        """In order, each as soon as it is known."""
        reference = self._references[name]
        several = iter(())
        if assignments and (crew := self._its_crew()) is not None:
            several = crew.measure(assignments, reference, sequences, self.progress)
        for assignment, found in zip_longest(assignments, several):
            if found is None:
                self._leave_crew()
                self.swap(assignment)
                found = self._compare(assignment, reference, sequences)
            yield found

    def _its_crew(self) -> Crew | None:
        """Asked for when there is something to measure: a run that knows all starts nothing."""
        if self._is_alone is None:
            self._crew = crew_for(
                self.workspace.model,
                self.workspace.layers,
                self._current,
                self.packed,
                self.workspace.folder,
                engine=self.meter.engine,
                workers=self.meter.workers,
                tokens=sum(Inputs.of(tokens).tokens for tokens in self.tokens.values()),
            )
            self._is_alone = self._crew is None
        return None if self._is_alone else self._crew

    def _leave_crew(self) -> None:
        """What a crew gives back undone is done here, and it is not asked again."""
        if not self._is_alone:
            self._is_alone = True
            log.warning(
                "A worker cannot see the model's weights in %s, so plans are measured here. Choose "
                "the engine processes, or a cluster of this machine alone.",
                self.workspace.folder,
            )

    def path(
        self, kind: str, tokens: Inputs, assignment: Mapping[str, Scheme], *of: object
    ) -> Path:
        """Where something is kept that was found of a plan on some tokens."""
        schemes = sorted((layer, str(scheme)) for layer, scheme in assignment.items())
        key = short_digest(tokens_digest(tokens), schemes, *of)
        return self.meter.store.folder / kind / key

    def _compare(
        self,
        assignment: Mapping[str, Scheme],
        reference: Reference,
        sequences: Sequence[int] | None,
    ) -> Divergence:
        """With the weights as they are swapped, and the cache rounded as the plan says."""
        with self.rounded(assignment):
            return compare(
                self.workspace.model, reference, sequences=sequences, progress=self.progress
            )

    def rounded(self, assignment: Mapping[str, Scheme]) -> AbstractContextManager[None]:
        """Within the block the cache is rounded as a plan says."""
        weights = {layer.name for layer in self.workspace.layers}
        caches = {name: s for name, s in assignment.items() if name not in weights}
        return rounded_caches(self.workspace.model, caches)

    @torch.no_grad()
    def swap(self, assignment: Mapping[str, Scheme]) -> None:
        """Give every layer the weight that a plan says."""
        for layer in self.workspace.layers:
            scheme = assignment[layer.name]
            if self._current[layer.name] != scheme:
                # An interrupt may come when the weight is written and the note of it is not.
                self._current[layer.name] = None
                weight = weight_of(self.workspace.model, layer)
                weight.copy_(self.packed(layer, scheme).decode(weight.dtype))
                self._current[layer.name] = scheme

    def packed(self, layer: Layer, scheme: Scheme) -> Packed:
        """A compressed weight, from the store or rendered again."""
        packed = self.meter.store.get(layer, scheme)
        if packed is None:
            # The file was lost or damaged: render it again, from the original weight.
            original = self.meter.store.get(layer, self.workspace.kept()[layer.name])
            if original is None:
                raise InternalError(
                    f"The original weight of {layer.name} is gone from {self.meter.store.folder} "
                    "while it was swapped out. Load the model again, and keep the folder."
                )
            self._current[layer.name] = None  # whatever was there, it is the original now
            weight = weight_of(self.workspace.model, layer)
            weight.copy_(original.decode(weight.dtype))
            [packed] = self.meter.packed(layer, [scheme])
        return packed


def _dump(found: Divergence) -> str:
    nll = None if found.nll is None else found.nll.tolist()
    return json.dumps({"kl": found.kl.tolist(), "nll": nll})


def _read(path: Path) -> Divergence | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(read_text(path))
        nll = content["nll"]
        return Divergence(kl=np.array(content["kl"]), nll=None if nll is None else np.array(nll))
    except (json.JSONDecodeError, KeyError, TypeError):
        return None

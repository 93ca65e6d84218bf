"""The KL of whole plans, measured on the model itself with its weights swapped."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
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
from bitplan.pipeline.workspace import Workspace, short_digest
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity import Meter


@dataclass(kw_only=True)
class Judge:
    """Measures plans of one model against the model as it was, and remembers what it measured.

    Use it within `with judge.borrowed():`, which puts the model's own weights back at the end.
    """

    workspace: Workspace
    meter: Meter
    tokens: Mapping[str, Int[Tensor, "sequences length"] | Inputs]
    progress: Progress = quiet
    _references: dict[str, Reference] = field(default_factory=dict)
    _current: dict[str, Scheme | None] = field(default_factory=dict)

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
        tokens = Inputs.of(self.tokens[name])
        if sequences is not None:
            tokens = tokens[list(sequences)]
        path = self.path("measured", tokens, assignment).with_suffix(".json")
        known = _read(path)
        if known is None:
            self.swap(assignment)
            known = self._compare(assignment, self._references[name], sequences)
            write_text(path, _dump(known))
        return known

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

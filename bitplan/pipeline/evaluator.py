"""What a search asks of the model: KL of plans, and what every single change of one would do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitplan.allocator.search import Assignment, Slopes
from bitplan.calibration import TokenSets
from bitplan.memory import room_bytes
from bitplan.models import Inputs, weight_of
from bitplan.pipeline.judge import Judge
from bitplan.schema import CostTable, Layer, Scheme
from bitplan.sensitivity import effects_of, portions
from bitplan.tensors import load_tensors, save_tensors

MOST_CHANGES = 8
"""Of one layer: the schemes nearest in bytes to the one that it has."""


SETS_OF_LESSONS = 2
"""Sequences that gradients are taken on, in turn, over those that plans are compared on."""


def lessons_of(tokens: TokenSets) -> Inputs:
    """Of the calibration tokens those that a search takes gradients on."""
    calibration = Inputs.of(tokens.calibration)
    some = min(len(calibration), SETS_OF_LESSONS * len(Inputs.of(tokens.search)))
    return calibration[list(range(some))]


@dataclass(frozen=True, kw_only=True)
class ModelEvaluator:
    """Measures on one set of a judge's tokens, and takes gradients on another.

    All that it finds is kept on disk, by content.

    Use it while the judge has borrowed the model.
    """

    judge: Judge
    table: CostTable
    name: str = "search"
    teaching: str = "calibration"

    @property
    def sequences(self) -> int:
        """How many plans are compared on."""
        return len(Inputs.of(self.judge.tokens[self.name]))

    @property
    def tokens_each(self) -> int:
        """Tokens in one."""
        return Inputs.of(self.judge.tokens[self.name]).tokens_each

    @property
    def inputs(self) -> Inputs:
        """The sequences that gradients are taken on."""
        return Inputs.of(self.judge.tokens[self.teaching])

    @property
    def lessons(self) -> int:
        """How many there are."""
        return len(self.inputs)

    @property
    def lesson_tokens(self) -> int:
        """Tokens in one."""
        return self.inputs.tokens_each

    def measure_many(
        self, assignments: Sequence[Assignment], sequences: Sequence[int]
    ) -> list[np.ndarray]:
        """Of each plan the KL [sequences]."""
        return [found.kl for found in self.judge.measure_many(assignments, self.name, sequences)]

    def slopes(self, assignment: Assignment, lessons: Sequence[int]) -> Slopes:
        """What every change of a weight would do; what is found of each sequence is kept."""
        menu = self._menu(assignment)
        told = {layer.name: [str(scheme) for scheme in menu[layer]] for layer in menu}
        paths = {
            index: self.judge.path("slopes", self.inputs[[index]], assignment, told, index)
            for index in lessons
        }
        found = {index: load_tensors(path) or {} for index, path in paths.items()}
        with self.judge.rounded(assignment):
            for index, effects in self._effects(menu, assignment, found):
                found[index] |= effects
                save_tensors(paths[index], found[index])
        return {
            layer.name: {
                scheme: np.array([float(found[index][layer.name][at]) for index in lessons])
                for at, scheme in enumerate(schemes)
            }
            for layer, schemes in menu.items()
        }

    def _menu(self, assignment: Assignment) -> dict[Layer, list[Scheme]]:
        """Of every layer with a weight the schemes that it may go to, as a layer alone."""
        menu = {}
        for row in self.table.rows:
            if row.layer.is_cache:
                continue
            here = assignment[row.layer.name]
            if here.is_none:
                continue
            size = {c.scheme: c.bytes for c in row.costs if not c.scheme.is_none}
            nearest = sorted(size, key=lambda s: (abs(size[s] - size[here]), str(s)))
            menu[row.layer] = [scheme for scheme in nearest if scheme != here][:MOST_CHANGES]
        return {layer: schemes for layer, schemes in menu.items() if schemes}

    def _effects(
        self,
        menu: Mapping[Layer, Sequence[Scheme]],
        assignment: Assignment,
        found: Mapping[int, Mapping[str, Tensor]],
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Of the layers that memory holds at a time, the effects on a sequence not `found` yet."""
        model, inputs = self.judge.workspace.model, self.inputs
        reference = self.judge.reference(self.teaching).values()
        every = list(portions(menu, lambda layer: self._bytes(layer, menu), room_bytes()))
        total, before = len(every) * len(found), {i: set(known) for i, known in found.items()}
        for turn, layers in enumerate(every):
            missing = [
                index
                for index, known in found.items()
                if any(layer.name not in known for layer in layers)
            ]
            if not missing:
                continue
            self.judge.swap(assignment)
            changes = {layer: self._change(layer, menu[layer], assignment) for layer in layers}
            for done, index in enumerate(missing, start=turn * len(found)):
                self.judge.progress("operating point", done, total)
                told = reference[index : index + 1]
                effects = effects_of(
                    model, inputs[[index]], told, changes, sequence=index, second_order=False
                )
                yield index, {layer.name: effect.double() for layer, effect in effects.items()}
        if any(layer.name not in known for known in before.values() for layer in menu):
            self.judge.progress("operating point", total, total)

    def _bytes(self, layer: Layer, menu: Mapping[Layer, Sequence[Scheme]]) -> int:
        itemsize = weight_of(self.judge.workspace.model, layer).itemsize
        return layer.parameters * itemsize * len(menu[layer])

    @torch.no_grad()
    def _change(self, layer: Layer, schemes: Sequence[Scheme], assignment: Assignment) -> Tensor:
        """From the plan's weight to each of the schemes' [schemes, ...], in the layer's dtype."""
        here = self.judge.packed(layer, assignment[layer.name]).decode(torch.float32)
        weight = weight_of(self.judge.workspace.model, layer)
        changes = torch.empty(len(schemes), *layer.shape, dtype=weight.dtype)
        for index, scheme in enumerate(schemes):
            changes[index] = self.judge.packed(layer, scheme).decode(torch.float32).sub_(here)
        return changes

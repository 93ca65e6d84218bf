"""Blocks trained one after another on what they gave before they were compressed.

Chen et al., 2024, "EfficientQAT", its first phase: all that a block is made of is learned, codes
too, through a straight-through estimator, so that what it makes of what the compressed blocks in
front of it give is what the reference's block made of what the reference's gave. No byte is added.
With windows of two blocks, each overlapping the next by one, an error may be made up for a block
later (Ding et al., 2023, "CBQ").

An error at a token counts by how much the loss depends on it: its squared gradient there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bitplan.apply import PackedOf, pack_layers
from bitplan.errors import InputError
from bitplan.models import Inputs, eager_experts, read_outputs, weight_of
from bitplan.models.chain import Chain, find_chain
from bitplan.modules import PackedLinear
from bitplan.packed_weight import PackedWeight
from bitplan.progress import Progress, quiet, remark
from bitplan.schema import Layer, Scheme, units_of
from bitplan.tensors import load_tensors, save_tensors
from bitplan.tune.descent import SEQUENCES_A_LOOK, Descent, laid_out
from bitplan.tune.lessons import Lesson, Lessons
from bitplan.tune.reconstruction import Reconstruction
from bitplan.tune.streams import Stream
from bitplan.tune.tuner import Tuned
from bitplan.tune.window import Window

BLOCK_RATE = 2e-3
"""The largest step of scales; codes move `bitplan.tune.latent.UNIT` times as far."""


TOLD = "told"
"""Beside the tensors of a window: its error before and after, and steps."""


@torch.no_grad()
def tune_blocks(
    model: nn.Module,
    schemes: Mapping[Layer, Scheme],
    packed_of: PackedOf,
    lessons: Lessons,
    judged: Lessons,
    *,
    epochs: float,
    window: int = 1,
    rate: float = BLOCK_RATE,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress = quiet,
) -> list[Tuned]:
    """Pack a model as `bitplan.apply.pack_layers` does, and train each block once it is packed.

    Args:
        model: dense; packed in place.
        schemes: of its layers.
        packed_of: where their compressed weights come from.
        lessons: what is learned from.
        judged: what says whether it helped: a block that is no better on it stays as it was.
        epochs: passes over the lessons, for each block.
        window: blocks that are trained together, all but one of them again with the next.
        rate: of Adam, in units of each number's scale.
        seed: of the order of the sequences.
        folder: where what is done is kept; the same call goes on from there. None: nowhere.
        progress: told after each step.

    Returns:
        For each window that has something to learn the error on `judged`, as a share of the
        hidden states' own square.

    Raises:
        InputError: `epochs`, `rate` or `window` is not above zero.
        ModelError: the model is no chain of blocks, or an error or a gradient is not finite.
    """
    if not (0 < epochs < math.inf and 0 < rate < math.inf and window >= 1):
        raise InputError(
            f"epochs is {epochs}, rate {rate} and window {window}; all must be above zero."
        )
    judged = judged.first(SEQUENCES_A_LOOK)
    with eager_experts(model):
        chain = chain_of(model, judged.inputs)
        trainer = _Trainer(
            chain=chain,
            schemes=schemes,
            packed_of=packed_of,
            lessons=lessons,
            judged=judged,
            settings=_Settings(epochs=epochs, window=window, rate=rate, seed=seed),
            folder=folder,
            progress=progress,
        )
        return trainer.run()


def chain_of(model: nn.Module, inputs: Inputs) -> Chain:
    """The model's blocks; raises `ModelError` for a model that is no chain of them."""
    with torch.enable_grad():
        return find_chain(model, lambda: read_outputs(model, inputs[:1]).values.float().sum())


@torch.no_grad()
def restore_blocks(model: nn.Module, folder: Path) -> list[Tuned]:
    """Give a packed model what `tune_blocks` kept in a folder: for each window, as it gave."""
    found = [_load(model, file) for file in block_files(folder)]
    return [one for one in found if one is not None]


def block_files(folder: Path) -> list[Path]:
    """What is kept of the windows that came to their end, in order."""
    return sorted(folder.glob("[0-9]*.safetensors"))


@dataclass(frozen=True, kw_only=True)
class _Settings:
    epochs: float
    window: int
    rate: float
    seed: int


@dataclass(kw_only=True)
class _Trainer:
    """Packs blocks in turn; a window of them is trained when its last one is packed."""

    chain: Chain
    schemes: Mapping[Layer, Scheme]
    packed_of: PackedOf
    lessons: Lessons
    judged: Lessons
    settings: _Settings
    folder: Path | None
    progress: Progress

    def run(self) -> list[Tuned]:
        count = len(self.chain.blocks)
        window = min(self.settings.window, count)
        told = {one: Stream.begin(self.chain, one.inputs) for one in (self.lessons, self.judged)}
        self._pack(None)
        ours = {one: Stream.begin(self.chain, one.inputs) for one in told}
        originals: dict[int, dict[PackedWeight, Tensor]] = {}
        found = []
        for last in range(count):
            for stream in told.values():
                stream.advance(last)
            originals[last] = self._pack(last)
            first = last - window + 1
            if first < 0:
                continue
            blocks = range(first, last + 1)
            known = {weight: one for index in blocks for weight, one in originals[index].items()}
            pairs = [
                Lesson.of(ours[one], wanted=told[one].hidden, matters=one.matters[last])
                for one in told
            ]
            found += self._train(blocks, known, *pairs)
            for stream in ours.values():
                stream.advance(first)
            del originals[first]
        return found

    def _pack(self, place: int | None) -> dict[PackedWeight, Tensor]:
        """Pack the layers of one block, or of those around all; the weights that they had."""
        some = {
            layer: scheme
            for layer, scheme in self.schemes.items()
            if _place(self.chain, layer) == place
        }
        model, units = self.chain.model, units_of(some)
        dense = {unit.layer.name: weight_of(model, unit.layer).detach() for unit in units}
        pack_layers(model, some, self.packed_of)
        modules, found = dict(model.named_modules(remove_duplicate=False)), {}
        for unit in units:
            weight = dense[unit.layer.name]
            for stack in unit.stacks:
                module = modules.get(stack.layer.name)  # none of experts that stay as they are
                holder = module.weight if isinstance(module, PackedLinear) else module
                if isinstance(holder, PackedWeight):
                    is_all = len(unit.stacks) == 1
                    found[holder] = weight if is_all else weight[stack.experts]
        return found

    def _train(
        self,
        blocks: range,
        originals: Mapping[PackedWeight, Tensor],
        lessons: Lesson,
        judged: Lesson,
    ) -> list[Tuned]:
        file = None if self.folder is None else self.folder / f"{blocks[0]:04}.safetensors"
        if file is not None and (kept := _load(self.chain.model, file)) is not None:
            return [kept]
        with laid_out(nn.ModuleList(self.chain.blocks[index] for index in blocks)):
            window = Window(self.chain, blocks, originals)
            if not window.numbers:
                return []
            descent = self._descent(window, lessons, judged)
            doing = None if file is None else file.with_name(f"state-{file.name}")
            found = Tuned.of(descent.run(doing))
            window.write_codes()
            if file is not None and doing is not None:
                save_tensors(file, {**window.tensors(), TOLD: found.row()})
                doing.unlink(missing_ok=True)
        return [found]

    def _descent(self, window: Window, lessons: Lesson, judged: Lesson) -> Descent:
        settings, progress, count = self.settings, self.progress, len(self.chain.blocks)
        first = window.indices[0]
        windows = count - min(settings.window, count) + 1
        descent = Descent(
            numbers=window.numbers,
            objective=Reconstruction(window, lessons, judged),
            sequences=len(lessons.wanted),
            epochs=settings.epochs,
            rate=lambda _: settings.rate,
            seed=settings.seed,
            told=lambda done: progress(
                "blocks", first * descent.steps + done, windows * descent.steps
            ),
            looked=lambda looks: remark(
                progress, "blocks", f"error of block {first} {looks[0]:.4f} -> {min(looks):.4f}"
            ),
        )
        return descent


def _place(chain: Chain, layer: Layer) -> int | None:
    """The block that a layer is in; None where it is in none, or in several."""
    places = {chain.place(name) for name in (layer.name, *layer.tied)}
    return places.pop() if len(places) == 1 else None


def _load(model: nn.Module, file: Path) -> Tuned | None:
    """Give the packed model what one window ended with, if it did."""
    tensors = load_tensors(file)
    if tensors is None:
        return None
    found = Tuned.read(tensors.pop(TOLD))
    model.load_state_dict(tensors, strict=False)
    return found

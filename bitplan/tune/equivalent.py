"""Scales and shifts of channels, learned block by block: OmniQuant (Shao et al., 2024).

Each block is given what it is given in the model as it is, and what it makes of that with its
weights rounded should be what it made of it before. The scales and shifts of its channels are
learned for that, together with clipping strengths, which are left behind: whoever renders the
weights finds ranges of its own, in schemes that are only known later. (In the paper a block reads
what the rounded blocks before it give. Here nothing is rounded for good yet.)

An error at a token counts by how much the loss depends on it: its squared gradient there.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.models import find_neighbours
from bitplan.models.chain import Chain
from bitplan.models.neighbours import Neighbours
from bitplan.progress import Progress, quiet, remark
from bitplan.schema import Scheme
from bitplan.tensors import load_tensors, save_tensors
from bitplan.tune.blocks import TOLD, chain_of
from bitplan.tune.changed import ChangedBlock
from bitplan.tune.descent import SEQUENCES_A_LOOK, Descent
from bitplan.tune.lessons import Lesson, Lessons
from bitplan.tune.reads import seen
from bitplan.tune.reconstruction import Reconstruction
from bitplan.tune.streams import Stream
from bitplan.tune.tuner import Tuned

EPOCHS = 10
"""Passes over the lessons, for each block."""

RATE = 1e-2

STARTS = ((0.0, False), (0.0, True), (0.25, True), (0.5, True))
"""Where a block may begin, as `ChangedBlock.begin` says: as it is, and farther and farther off."""

WORTH = 0.9
"""A start that is farther off must leave so much of the error of one that is less far: of two that
are level the nearer one ends better (block 4 of SmolLM2-135M, at powers of 0.25 and 0.5: 0.0068 and
0.0065 at first, 0.0050 and 0.0056 in the end)."""

SHIFT = "shift of "
"""Before the path of what makes the channels, in a file; a scale has the path alone."""


@dataclass(frozen=True, kw_only=True)
class Equivalents:
    """Scales and shifts by the path of what makes the channels, and what they are worth.

    `blocks` tell for each the error that rounding to nearest makes of its output, as a share of its
    square: before, and after with what was learned.
    """

    scales: dict[str, Float[Tensor, "channels"]] = field(default_factory=dict)
    shifts: dict[str, Float[Tensor, "channels"]] = field(default_factory=dict)
    blocks: list[Tuned] = field(default_factory=list)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Equivalents":
        """What `tensors` gave."""
        named = {name: one for name, one in tensors.items() if name != TOLD}
        return cls(
            scales={name: one for name, one in named.items() if not name.startswith(SHIFT)},
            shifts={
                name.removeprefix(SHIFT): one
                for name, one in named.items()
                if name.startswith(SHIFT)
            },
            blocks=[Tuned.read(row) for row in tensors[TOLD]],
        )

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""
        shifts = {SHIFT + maker: one for maker, one in self.shifts.items()}
        return self.scales | shifts | {TOLD: torch.stack([one.row() for one in self.blocks])}


@torch.no_grad()
def learn_equivalents(
    model: nn.Module,
    lessons: Lessons,
    *,
    scheme: Scheme,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress = quiet,
) -> Equivalents:
    """Changes of a dense model's channels by which its blocks lose less when they are rounded.

    Args:
        model: stays as it is.
        lessons: what is learned from, but for an eighth, which says which steps are the best and
            when they are enough. So these tokens alone say what comes out.
        scheme: integers that weights are rounded to meanwhile.
        seed: of the order of the sequences.
        folder: where what is done is kept; the same call goes on from there. None: nowhere.
        progress: told after each step.

    Raises:
        ModelError: it is not known what makes the inputs of the model's linears, or an error or a
            gradient is not finite.
    """
    neighbours = find_neighbours(model)
    lessons, judged = lessons.apart(SEQUENCES_A_LOOK)
    trainer = _Trainer(
        chain=chain_of(model, judged.inputs),
        neighbours=neighbours,
        lessons=lessons,
        judged=judged,
        scheme=scheme,
        seed=seed,
        folder=folder,
        progress=progress,
    )
    return trainer.run()


@dataclass(kw_only=True)
class _Trainer:
    """Carries what the blocks are given through them, and learns the changes of each on the way."""

    chain: Chain
    neighbours: Neighbours
    lessons: Lessons
    judged: Lessons
    scheme: Scheme
    seed: int
    folder: Path | None
    progress: Progress

    def run(self) -> Equivalents:
        streams = [Stream.begin(self.chain, one.inputs) for one in (self.lessons, self.judged)]
        found = [self._block(index, streams) for index in range(len(self.chain.blocks))]
        return Equivalents(
            scales={maker: scale for one in found for maker, scale in one.scales.items()},
            shifts={maker: shift for one in found for maker, shift in one.shifts.items()},
            blocks=[block for one in found for block in one.blocks],
        )

    def _block(self, index: int, streams: list[Stream]) -> Equivalents:
        """The changes of one block; the streams are carried through it."""
        file = None if self.folder is None else self.folder / f"{index:04}.safetensors"
        if file is not None and (tensors := load_tensors(file)) is not None:
            for stream in streams:
                stream.advance(index)
            return Equivalents.of(tensors)
        groups = [one for one in self.neighbours.groups if self.chain.place(one.maker) == index]
        given = [replace(stream, hidden=stream.hidden.clone()) for stream in streams]
        with seen(self.chain.model, groups, self.lessons.matters[index]) as reads:
            streams[0].advance(index)
        streams[1].advance(index)
        paths = [path for one in self.neighbours.sublayers for path in one.layers]
        block = ChangedBlock(
            self.chain,
            index,
            groups=groups,
            linears=[path for path in paths if self.chain.place(path) == index],
            reads=reads,
            scheme=self.scheme,
        )
        lessons, judged = (
            Lesson.of(stream, wanted=wanted.hidden, matters=one.matters[index])
            for stream, wanted, one in zip(given, streams, (self.lessons, self.judged), strict=True)
        )
        return self._learn(block, Reconstruction(block, lessons, judged), file)

    def _learn(
        self, block: ChangedBlock, objective: Reconstruction, file: Path | None
    ) -> Equivalents:
        looks, best = {}, STARTS[0]
        for start in STARTS:
            block.begin(*start)
            looks[start] = objective.look()
            if looks[start] < WORTH * looks[best]:
                best = start
        block.begin(*best)
        doing = None if file is None else file.with_name(f"state-{file.name}")
        state = self._descent(block, objective).run(doing)
        found = Equivalents(
            scales={maker: logarithm.exp() for maker, logarithm in block.scales.items()},
            shifts={maker: shift.detach().clone() for maker, shift in block.shifts.items()},
            blocks=[Tuned(before=looks[STARTS[0]], after=min(state.looks), steps=state.done)],
        )
        if file is not None and doing is not None:
            save_tensors(file, found.tensors())
            doing.unlink(missing_ok=True)
        return found

    def _descent(self, block: ChangedBlock, objective: Reconstruction) -> Descent:
        index, count, progress = block.index, len(self.chain.blocks), self.progress
        descent = Descent(
            numbers=block.numbers,
            objective=objective,
            sequences=len(self.lessons.inputs),
            epochs=EPOCHS,
            rate=lambda _: RATE,
            seed=self.seed,
            told=lambda done: progress(
                "scales", index * descent.steps + done, count * descent.steps
            ),
            looked=lambda looks: remark(
                progress, "scales", f"error of block {index} {looks[0]:.4f} -> {min(looks):.4f}"
            ),
        )
        return descent

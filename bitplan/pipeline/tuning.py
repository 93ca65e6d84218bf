"""Tuning within a work folder: what it is tuned and judged on, and where its state is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor, nn

from bitplan.apply import pack_layers
from bitplan.calibration import TokenSets
from bitplan.evaluate import Reference, compare, make_reference
from bitplan.files import make_folder, read_text, write_text
from bitplan.models import Inputs
from bitplan.pipeline.fingerprint import short_digest
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress
from bitplan.schema import Layer, Plan, Record, Scheme
from bitplan.sensitivity import block_outputs
from bitplan.tensors import load_tensors
from bitplan.tune import (
    BLOCK_RATE,
    STEPS,
    Lessons,
    block_files,
    is_ended,
    restore,
    restore_blocks,
    tune,
    tune_blocks,
)


class Tuning(Record):
    """What tuning did, on held-out tokens that it did not see: KL in nats per token."""

    steps: PositiveInt
    tokens: PositiveInt
    kl_before: NonNegativeFloat
    kl_after: NonNegativeFloat
    perplexity_before: NonNegativeFloat | None
    perplexity_after: NonNegativeFloat | None


class BlockTuning(Record):
    """What training block by block did.

    Of `windows` that had something to learn `bettered` are better than before on tokens that they
    did not learn from, where the mean error of a window's output, as a share of its square, went
    from `error_before` to `error_after`. `kl` and `perplexity` are those of the whole model then,
    on as many held-out tokens as `tokens` says.
    """

    windows: NonNegativeInt
    bettered: NonNegativeInt
    error_before: NonNegativeFloat
    error_after: NonNegativeFloat
    tokens: PositiveInt
    kl: NonNegativeFloat
    perplexity: NonNegativeFloat | None


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How much is tuned.

    Args:
        epochs: passes over the calibration tokens end to end; 0: none.
        block_epochs: passes for each block on its own, before that; 0: none.
        block_window: blocks that are trained together.
    """

    epochs: float
    block_epochs: float
    block_window: int


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A packed and tuned model, and what each way of tuning did, if it was asked for."""

    model: nn.Module
    tuning: Tuning | None
    blocks: BlockTuning | None


def tuned(
    workspace: Workspace,
    plan: Plan,
    schemes: Mapping[Layer, Scheme],
    tokens_of: Callable[[], TokenSets],
    passes: Passes,
    *,
    progress: Progress,
) -> Tuned:
    """Pack the model and tune it; what is kept of an earlier run is not done again.

    `tokens_of` is asked only where there is something to do.
    """
    work = _Work(workspace, plan, schemes, passes, progress)
    known = work.known()
    return known if known is not None else work.done(tokens_of())


class _Work:
    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        schemes: Mapping[Layer, Scheme],
        passes: Passes,
        progress: Progress,
    ) -> None:
        made = plan.provenance
        self.workspace, self.schemes, self.seed = workspace, schemes, made.seed
        self.passes, self.progress = passes, progress
        self.store = workspace.store(made.calibration_digest, made.quantizer)
        key = sorted((layer, str(scheme)) for layer, scheme in plan.schemes.items())
        shared, home = (key, made.sizes, made.seed), self.store.folder
        if passes.block_epochs:
            ways = (passes.block_epochs, passes.block_window, BLOCK_RATE)
            home = home / "blocks" / short_digest(*shared, *ways)
        self.home = home
        self.state = home / "tuned" / f"{short_digest(*shared, passes.epochs, STEPS)}.safetensors"

    @property
    def _blocks_file(self) -> Path:
        return self.home / "blocks.json"

    def known(self) -> Tuned | None:
        """What an earlier run left, where it came to its end."""
        blocks = self._known_blocks() if self.passes.block_epochs else None
        if self.passes.block_epochs and blocks is None:
            return None
        tuning = None
        if self.passes.epochs:
            tuning = _read(self.state.with_suffix(".json"), Tuning)
            if tuning is None or not is_ended(self.state):
                return None
        model = self._packed(blocks)
        if tuning is not None:
            restore(model, self.state)
        return Tuned(model=model, tuning=tuning, blocks=blocks)

    def done(self, tokens: TokenSets) -> Tuned:
        """Go on from what there is."""
        held_out = self._reference(tokens.held_out)
        lessons = judged = None
        if self.passes.epochs:
            lessons, judged = map(self._reference, (tokens.calibration, tokens.search))
        blocks = self._known_blocks() if self.passes.block_epochs else None
        if self.passes.block_epochs and blocks is None:
            model, blocks = self._train_blocks(tokens, held_out)
        else:
            model = self._packed(blocks)
        tuning = None
        if lessons is not None and judged is not None:
            tuning = self._tune(model, lessons, judged, held_out)
        return Tuned(model=model, tuning=tuning, blocks=blocks)

    def _known_blocks(self) -> BlockTuning | None:
        known = _read(self._blocks_file, BlockTuning)
        kept = [file for file in block_files(self.home) if load_tensors(file) is not None]
        return known if known is not None and known.windows == len(kept) else None

    def _packed(self, blocks: BlockTuning | None) -> nn.Module:
        model = self.workspace.model
        pack_layers(model, self.schemes, self.store.require, progress=self.progress)
        if blocks is not None:
            restore_blocks(model, self.home)
        return model

    def _reference(self, tokens: Inputs | Tensor) -> Reference:
        folder = self.workspace.folder
        return make_reference(self.workspace.model, tokens, folder, progress=self.progress)

    def _train_blocks(
        self, tokens: TokenSets, held_out: Reference
    ) -> tuple[nn.Module, BlockTuning]:
        model = self.workspace.model
        lessons, judged = (
            Lessons(inputs=one, matters=block_outputs(model, one, progress=self.progress))
            for one in map(Inputs.of, (tokens.calibration, tokens.search))
        )
        found = tune_blocks(
            model,
            self.schemes,
            self.store.require,
            lessons,
            judged,
            epochs=self.passes.block_epochs,
            window=self.passes.block_window,
            seed=self.seed,
            folder=make_folder(self.home),
            progress=self.progress,
        )
        after, windows = compare(model, held_out, progress=self.progress), max(1, len(found))
        blocks = BlockTuning(
            windows=len(found),
            bettered=sum(one.after < one.before for one in found),
            error_before=sum(one.before for one in found) / windows,
            error_after=sum(one.after for one in found) / windows,
            tokens=held_out.inputs.tokens,
            kl=after.mean,
            perplexity=after.perplexity,
        )
        write_text(self._blocks_file, blocks.model_dump_json())
        return model, blocks

    def _tune(
        self, packed: nn.Module, lessons: Reference, judged: Reference, held_out: Reference
    ) -> Tuning:
        progress, passes = self.progress, self.passes
        before = compare(packed, held_out, progress=progress)
        done = tune(
            packed,
            lessons,
            judged,
            epochs=passes.epochs,
            seed=self.seed,
            file=self.state,
            progress=progress,
        )
        after = compare(packed, held_out, progress=progress)
        tuning = Tuning(
            steps=done.steps,
            tokens=held_out.inputs.tokens,
            kl_before=before.mean,
            kl_after=after.mean,
            perplexity_before=before.perplexity,
            perplexity_after=after.perplexity,
        )
        write_text(self.state.with_suffix(".json"), tuning.model_dump_json())
        return tuning


R = TypeVar("R", bound=Record)


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        return kind.model_validate_json(read_text(path)) if path.is_file() else None
    except ValidationError:
        return None

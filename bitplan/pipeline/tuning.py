"""Tuning within a work folder: what it is tuned and judged on, and where its state is kept."""

from collections.abc import Callable
from pathlib import Path

from pydantic import NonNegativeFloat, PositiveInt, ValidationError
from torch import nn

from bitplan.calibration import TokenSets
from bitplan.evaluate import compare, make_reference
from bitplan.files import read_text, write_text
from bitplan.models import Inputs
from bitplan.pipeline.fingerprint import short_digest
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress
from bitplan.schema import Plan, Record
from bitplan.tune import RATE, is_ended, restore, tune


class Tuning(Record):
    """What tuning did, on held-out tokens that it did not see: KL in nats per token."""

    steps: PositiveInt
    tokens: PositiveInt
    kl_before: NonNegativeFloat
    kl_after: NonNegativeFloat
    perplexity_before: NonNegativeFloat | None
    perplexity_after: NonNegativeFloat | None


def tuned(
    workspace: Workspace,
    plan: Plan,
    pack: Callable[[], nn.Module],
    tokens_of: Callable[[], TokenSets],
    *,
    epochs: float,
    progress: Progress,
) -> tuple[nn.Module, Tuning]:
    """Pack the model and tune it; what is kept of an earlier run is not done again.

    `tokens_of` is asked only where there is something to do.
    """
    made = plan.provenance
    store = workspace.store(made.calibration_digest, made.quantizer)
    schemes = sorted((layer, str(scheme)) for layer, scheme in plan.schemes.items())
    key = short_digest(schemes, made.sizes, made.seed, epochs, RATE)
    state = store.folder / "tuned" / f"{key}.safetensors"
    known = _read(state.with_suffix(".json"))
    if known is not None and is_ended(state):
        packed = pack()
        restore(packed, state)
        return packed, known
    return _tune(workspace, pack, tokens_of(), state, epochs, made.seed, progress)


def _tune(
    workspace: Workspace,
    pack: Callable[[], nn.Module],
    tokens: TokenSets,
    state: Path,
    epochs: float,
    seed: int,
    progress: Progress,
) -> tuple[nn.Module, Tuning]:
    lessons, judged, held_out = (
        make_reference(workspace.model, one, workspace.folder, progress=progress)
        for one in (tokens.calibration, tokens.search, tokens.held_out)
    )
    packed = pack()
    before = compare(packed, held_out, progress=progress)
    done = tune(packed, lessons, judged, epochs=epochs, seed=seed, file=state, progress=progress)
    after = compare(packed, held_out, progress=progress)
    tuning = Tuning(
        steps=done.steps,
        tokens=Inputs.of(tokens.held_out).tokens,
        kl_before=before.mean,
        kl_after=after.mean,
        perplexity_before=before.perplexity,
        perplexity_after=after.perplexity,
    )
    write_text(state.with_suffix(".json"), tuning.model_dump_json())
    return packed, tuning


def _read(path: Path) -> Tuning | None:
    try:
        return Tuning.model_validate_json(read_text(path)) if path.is_file() else None
    except ValidationError:
        return None

"""`bitplan apply`: a model and a plan to a compressed model."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bitplan.cli.measuring import check_sources, sources_of
from bitplan.cli.options import AsJson, Effort, Model, Workdir
from bitplan.cli.show import show
from bitplan.console import Bars
from bitplan.effort import get_effort
from bitplan.files import make_folder
from bitplan.place import check_source
from bitplan.schema import Plan


def apply(
    model: Model,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A file that allocate wrote.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the compressed model goes.")],
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH[:WEIGHT]",
            help="The text that the plan was made with, on a machine without its work.",
        ),
    ] = None,
    effort: Effort = "standard",
    tune_epochs: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Passes over the calibration tokens, forward and back, that tune scales, "
            "offsets, norms and biases; no byte is added. 8 is enough.",
            show_default="the effort's",
        ),
    ] = None,
    block_epochs: Annotated[
        float,
        typer.Option(
            min=0,
            help="Passes over the calibration tokens for each block on its own, before that: codes "
            "are learned too, and no byte is added.",
        ),
    ] = 0,
    block_window: Annotated[
        int, typer.Option(min=1, help="Neighbouring blocks that are trained together.")
    ] = 1,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse schemes that no kernel of this machine multiplies."),
    ] = False,
    workdir: Workdir = None,
    as_json: AsJson = False,
) -> None:
    """Compress a model by a plan and save it: safetensors, with the plan inside config.json."""
    # What is seen to be wrong is refused before torch is imported, which takes seconds.
    check_source(model)
    get_effort(effort)
    check_sources(calibration)
    loaded = Plan.load(plan)
    make_folder(folder)
    from bitplan.apply import held_bytes
    from bitplan.export import folder_to_save_in, save
    from bitplan.models import find_tokenizer
    from bitplan.pipeline import run_apply

    folder_to_save_in(folder)  # before the work, which may take hours
    with Bars(hidden=as_json) as bars:
        applied = run_apply(
            model,
            loaded,
            workdir=workdir,
            calibration=sources_of(calibration),
            effort=effort,
            tune_epochs=tune_epochs,
            block_epochs=block_epochs,
            block_window=block_window,
            strict=strict,
            progress=bars,
        )
    save(applied.model, folder, loaded, tokenizer=find_tokenizer(model))
    size, tuning, blocks = held_bytes(applied.model), applied.tuning, applied.blocks
    told: dict[str, Any] = {"folder": str(folder), "bytes": size}
    if blocks is not None:
        told["blocks"] = blocks.model_dump()
    if tuning is not None:
        told["tuning"] = tuning.model_dump()
    show(
        json.dumps(told),
        as_json,
        lambda: [
            *([] if blocks is None else [_trained(blocks)]),
            *([] if tuning is None else [_tuned(tuning)]),
            f"{size:,} bytes of parameters and buffers, saved in {folder}.{_cache(loaded)}",
        ],
    )


def _trained(blocks: Any) -> str:
    text = (
        f"Trained {blocks.bettered} of {blocks.windows} blocks: error of a block on other tokens "
        f"{blocks.error_before:.4f} -> {blocks.error_after:.4f} of its output, KL on "
        f"{blocks.tokens:,} held-out tokens {blocks.kl:.4f} nats per token"
    )
    return (
        f"{text}." if blocks.perplexity is None else f"{text}, perplexity {blocks.perplexity:.2f}."
    )


def _tuned(tuning: Any) -> str:
    text = (
        f"Tuned in {tuning.steps:,} steps: KL on {tuning.tokens:,} held-out tokens "
        f"{tuning.kl_before:.4f} -> {tuning.kl_after:.4f} nats per token"
    )
    if tuning.perplexity_before is None:
        return f"{text}."
    before, after = tuning.perplexity_before, tuning.perplexity_after
    return f"{text}, perplexity {before:.2f} -> {after:.2f}."


def _cache(plan: Plan) -> str:
    if not plan.cache_bytes:
        return ""
    made = plan.provenance
    return (
        f" Its cache takes {plan.cache_bytes:,} bytes for {made.context:,} tokens"
        f"{f' of {made.batch} sequences each' if made.batch > 1 else ''}."
    )

"""`bitplan evaluate`: models side by side."""

from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.options import AsJson, Dtype
from bitplan.cli.show import show
from bitplan.console import Bars
from bitplan.files import check_readable
from bitplan.names import check_dtype
from bitplan.place import check_source


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder that apply wrote, or any model.")
    ],
    text: Annotated[Path, typer.Option(help="Held-out text: a text or JSONL file.")],
    reference: Annotated[str | None, typer.Option(help="The model that it was made from.")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences to read.")] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens in a sequence.")] = 256,
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Perplexity, KL to the reference, tokens per second and peak memory, side by side."""
    # What is seen to be wrong is refused before torch is imported, which takes seconds.
    check_readable(text)
    check_dtype(dtype)
    for source in (model, reference):
        if source is not None:
            check_source(source)
    from bitplan.evaluate import evaluate
    from bitplan.report import evaluation_table

    with Bars(hidden=as_json) as bars:
        result = evaluate(
            model,
            reference=reference,
            text=text,
            sequences=sequences,
            length=length,
            dtype=dtype,
            progress=bars,
        )
    show(result.model_dump_json(indent=2), as_json, lambda: [evaluation_table(result)])

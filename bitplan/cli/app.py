"""The commands, in the order in which help lists them."""

from shutil import get_terminal_size
from typing import Annotated

import typer

from bitplan.cli.allocate import allocate
from bitplan.cli.apply import apply
from bitplan.cli.best_plans import best_plans
from bitplan.cli.cancel import cancel
from bitplan.cli.demo import demo
from bitplan.cli.describe import describe
from bitplan.cli.efforts import efforts
from bitplan.cli.evaluate import evaluate
from bitplan.cli.explain import explain
from bitplan.cli.fetch import fetch
from bitplan.cli.frontier import frontier
from bitplan.cli.jobs import jobs
from bitplan.cli.measure import measure
from bitplan.cli.presets import presets
from bitplan.cli.retry import retry
from bitplan.cli.serve import serve
from bitplan.cli.solve import solve
from bitplan.cli.submit import submit
from bitplan.cli.token import token
from bitplan.cli.watch import watch
from bitplan.cli.worker import worker

NARROW = 72
"""Columns below which help is plain: its panels would have a word a line."""

app = typer.Typer(
    name="bitplan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if get_terminal_size().columns >= NARROW else None,
    help="Which number format should each weight matrix get? Measure a model, fit it into a memory "
    "budget, check the plan on the model, and run the result.",
    epilog="Start with: bitplan demo",
)


def _say_version(asked: bool) -> None:
    if asked:
        # Read when asked for: no other command needs it.
        from bitplan import __version__

        typer.echo(f"bitplan {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


for verb in (
    demo,
    describe,
    measure,
    solve,
    presets,
    efforts,
    frontier,
    best_plans,
    explain,
    allocate,
    apply,
    evaluate,
    serve,
    worker,
    submit,
    watch,
    fetch,
    jobs,
    cancel,
    retry,
):
    app.command()(verb)
app.add_typer(token)

"""What a command shows: tables for people, or JSON for machines."""

import shlex
from collections.abc import Callable, Iterable

import typer
from rich.console import Console, RenderableType

out = Console(markup=False)
"""Without markup: a name may have brackets, as model[v2]."""


class Command(str):
    """A line with a command to copy: never broken, however long it is."""


def command(label: str, *words: object) -> Command:
    """A command after a label, its words quoted for a shell."""
    return Command(f"{label}: {shlex.join(map(str, words))}")


def show(text: str, as_json: bool, renderables: Callable[[], Iterable[RenderableType]]) -> None:
    """Print the text for machines, or what is rendered for people, to standard output."""
    if as_json:
        typer.echo(text.rstrip("\n"))
        return
    for renderable in renderables():
        out.print(renderable, soft_wrap=isinstance(renderable, Command))

"""What a command shows: tables for people, or JSON for machines."""

from collections.abc import Callable, Iterable

import typer
from rich.console import Console, RenderableType

out = Console()


def show(text: str, as_json: bool, renderables: Callable[[], Iterable[RenderableType]]) -> None:
    """Print the text for machines, or what is rendered for people, to standard output."""
    if as_json:
        typer.echo(text.rstrip("\n"))
        return
    for renderable in renderables():
        out.print(renderable)

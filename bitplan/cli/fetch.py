"""`bitplan fetch`: what a service's job has made, to files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson
from bitplan.cli.remote import JobName, RemoteOptions
from bitplan.cli.show import show
from bitplan.console import Bars


@grouped
def fetch(
    *,
    job: JobName,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")],
    only: Annotated[
        list[str] | None,
        typer.Option(help="A name, wildcard or folder, as plan.json, '*.html', model; or several."),
    ] = None,
    remote: RemoteOptions,
    as_json: AsJson = False,
) -> None:
    """Fetch the files that a job made; what is there already stays, what was cut off goes on."""
    with remote.client() as client, Bars(hidden=as_json) as bars:
        files = client.fetch(job, folder, only=only or (), progress=bars)
    content = {"job": job, "files": [str(file) for file in files]}
    plural = "file is" if len(files) == 1 else "files are"
    show(
        json.dumps(content, indent=2),
        as_json,
        lambda: [*map(str, files), f"{len(files)} {plural} there, whole."],
    )

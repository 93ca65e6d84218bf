"""`bitplan jobs`: what a service works on."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson
from bitplan.cli.remote import RemoteOptions
from bitplan.cli.show import show

if TYPE_CHECKING:
    from bitplan.service.records import Job


@grouped
def jobs(
    *,
    state: Annotated[
        str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="describe, measure, allocate, compress or apply.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="As many of the newest.")] = 20,
    remote: RemoteOptions,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs of a service."""
    with remote.client() as client:
        found = client.jobs(state=state, kind=kind, limit=limit)
    content = [job.model_dump(mode="json") for job in found]
    show(json.dumps(content, indent=2), as_json, lambda: [_table(found)])


def _table(found: "Sequence[Job]") -> Table:
    view = Table(box=SIMPLE_HEAD)
    for name in ("job", "kind", "model", "state", "since", "label"):
        view.add_column(name, overflow="fold", no_wrap=name == "job")
    for job in found:
        since = job.ended_at or job.started_at or job.created_at
        view.add_row(
            job.id,
            job.kind,
            job.request.parameters.model,
            str(job.state),
            f"{since.astimezone():%d %b %H:%M}",
            job.request.label,
        )
    return view

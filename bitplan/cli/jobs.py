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
    """In 80 columns: a label stands beside the model, which is the last part of its path."""
    view = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("job", "kind", "state", "since", "model"):
        view.add_column(name, overflow="fold", no_wrap=name != "model")
    for job in found:
        since = job.ended_at or job.started_at or job.created_at
        model = job.request.parameters.model.rstrip("/").rpartition("/")[2]
        view.add_row(
            job.id,
            job.kind,
            str(job.state),
            f"{since.astimezone():%d %b %H:%M}",
            f"{model}, {job.request.label}" if job.request.label else model,
        )
    return view

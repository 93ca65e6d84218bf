"""`bitplan submit`: ask a service for a job."""

from typing import Annotated, Any

import typer

from bitplan.cli.assignments import assignments
from bitplan.cli.follow import follow
from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson
from bitplan.cli.remote import RemoteOptions, headline
from bitplan.cli.show import show


@grouped
def submit(
    *,
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", help="describe, measure, allocate, compress or apply."),
    ],
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A path on the service's machine, or a hub id."),
    ],
    budget_gb: Annotated[
        float | None,
        typer.Option(help="For the whole model, in GB of 10^9 bytes; allocate and compress."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other parameter, as sequences=64, schemes=int3g64,int4g64, "
            "constraints.fuse=true.",
        ),
    ] = None,
    priority: Annotated[int, typer.Option(help="-10 to 10; higher runs earlier.")] = 0,
    label: Annotated[str, typer.Option(help="A name for people.")] = "",
    time_s: Annotated[float | None, typer.Option(help="Seconds that it may run.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Memory that it may take.")] = None,
    disk_gb: Annotated[float | None, typer.Option(help="Disk that its work may take.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Submissions with the same key are one job."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    remote: RemoteOptions,
    as_json: AsJson = False,
) -> None:
    """Ask a service for a job: a stage, its model, and what the stage's own command takes."""
    from bitplan.service.client.requests import make_request
    from bitplan.service.parameters import KINDS

    given: dict[str, Any] = {"model": model}
    given |= {"budget_gb": budget_gb} if budget_gb is not None else {}
    said = assignments(KINDS[kind], settings or ()) if kind in KINDS else {}
    limits = {"time_s": time_s, "memory_gb": memory_gb, "disk_gb": disk_gb}
    how = {"priority": priority, "limits": limits, "label": label}
    request = make_request(kind, {**given, **said}, **how)
    with remote.client() as client:
        job = client.submit(request, idempotency_key=key)
        follows = [] if watch else [f"Next: bitplan watch {job.id}{remote.again()}"]
        show(job.model_dump_json(), as_json, lambda: [headline(job), *follows])
        if watch:
            follow(client, job.id, remote, as_json=as_json)

"""`bitplan serve`: the service, web and workers, in one command."""

import json
from typing import Annotated

import typer

from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson
from bitplan.cli.service import ServiceOptions, service_extra


@grouped
def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="0: any that is free.", show_default="8642")
    ] = None,
    given: ServiceOptions,
    token_required: Annotated[
        bool | None,
        typer.Option(
            "--token-required/--no-token-required",
            help="Whether requests need a token.",
            show_default="on every address but loopback",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve jobs by HTTP, with a page, and work on them; needs the extra service.

    Each option may be set by the environment, too, as BITPLAN_SERVICE_PORT; docs/service.md lists
    all. Ctrl-C stops it, and the same command goes on where it was.
    """
    with service_extra():
        from bitplan.service.serve import serve

        settings = given.settings(host=host, port=port, token_required=token_required)
        serve(settings, announce=lambda lines: _announce(lines, as_json))


def _announce(lines: dict[str, str], as_json: bool) -> None:
    typer.echo(json.dumps(lines) if as_json else "\n".join(lines.values()))

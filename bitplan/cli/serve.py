"""`bitplan serve`: the service, web and workers, in one command."""

from typing import Annotated

import typer

from bitplan.cli.options import AsJson
from bitplan.cli.service import (
    AllowDemo,
    DatabaseUrl,
    Folder,
    LogFormat,
    Models,
    Organisations,
    RedisUrl,
    Texts,
    Workers,
    service_extra,
    settings_of,
)


def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0: any that is free.  [default: 8642]")] = None,
    folder: Folder = None,
    models: Models = None,
    texts: Texts = None,
    organisations: Organisations = None,
    demo: AllowDemo = None,
    workers: Workers = None,
    token_required: Annotated[
        bool | None,
        typer.Option(
            "--token-required/--no-token-required",
            help="Whether requests need a token.  [default: on every address but loopback]",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    log_format: LogFormat = None,
    as_json: AsJson = False,
) -> None:
    """Serve jobs by HTTP, with a page, and work on them; needs the extra service.

    Each option may be set by the environment, too, as BITPLAN_SERVICE_PORT; docs/service.md lists
    all. Ctrl-C stops it, and the same command goes on where it was.
    """
    with service_extra():
        from bitplan.service.serve import serve

        settings = settings_of(
            host=host,
            port=port,
            folder=folder,
            model_folders=models,
            text_folders=texts,
            organisations=organisations,
            demo=demo,
            workers=workers,
            token_required=token_required,
            database_url=database_url,
            redis_url=redis_url,
            log_format=log_format,
        )
        serve(settings, announce=lambda lines: _announce(lines, as_json))


def _announce(lines: dict[str, str], as_json: bool) -> None:
    import json

    typer.echo(json.dumps(lines) if as_json else "\n".join(lines.values()))

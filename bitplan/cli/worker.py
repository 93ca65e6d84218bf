"""`bitplan worker`: a worker alone, for more machines than the one that serves."""

from typing import Annotated

import typer

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


def worker(
    *,
    folder: Folder = None,
    models: Models = None,
    texts: Texts = None,
    organisations: Organisations = None,
    demo: AllowDemo = None,
    workers: Workers = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    log_format: LogFormat = None,
    with_stdin: Annotated[
        bool, typer.Option("--with-stdin", help="Stop when standard input ends, too.")
    ] = False,
) -> None:
    """Work on the jobs of a service, until it is stopped; needs the extra service.

    On another machine than the one that serves, name the same database and Redis, and a folder
    that both share. What runs when it stops is given back, and another worker goes on with it.
    """
    with service_extra():
        from bitplan.service.logs import set_up_logs
        from bitplan.service.work import run_worker

        settings = settings_of(
            folder=folder,
            model_folders=models,
            text_folders=texts,
            organisations=organisations,
            demo=demo,
            workers=workers,
            database_url=database_url,
            redis_url=redis_url,
            log_format=log_format,
        )
        set_up_logs(settings.log_format, settings.log_level)
        run_worker(settings, until_stdin_ends=with_stdin)

"""`bitplan worker`: a worker alone, for more machines than the one that serves."""

from typing import Annotated

import typer

from bitplan.cli.groups import grouped
from bitplan.cli.service import ServiceOptions, service_extra


@grouped
def worker(
    *,
    given: ServiceOptions,
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

        settings = given.settings()
        set_up_logs(settings.log_format, settings.log_level)
        run_worker(settings, until_stdin_ends=with_stdin)

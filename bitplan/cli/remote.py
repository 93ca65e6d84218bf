"""Options that say which service is asked, and with which token; and a job in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitplan.files import read_text

if TYPE_CHECKING:
    from bitplan.service.client import Client
    from bitplan.service.records import Job

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as submit prints it.")]


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """The group of those that say where the service is."""

    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The service; without it BITPLAN_SERVER, or http://127.0.0.1:8642.",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the token alone; without it BITPLAN_TOKEN, or no token."),
    ] = None

    def client(self) -> "Client":
        """A client of the service. Raises `InputError` where address or token cannot be one."""
        from bitplan.service.client import Client

        token = None if self.token_file is None else read_text(self.token_file)
        return Client(self.server, token)

    def again(self) -> str:
        """The options, as they are to be given to the next command."""
        given = {"--server": self.server, "--token-file": self.token_file}
        return "".join(f" {name} {value}" for name, value in given.items() if value is not None)


def headline(job: "Job") -> str:
    """A job in a line: what it is, and how far."""
    given = job.request.parameters
    budget = getattr(given, "budget_gb", None)
    within = f" in {budget:g} GB" if budget is not None else ""
    label = f" ({job.request.label})" if job.request.label else ""
    return f"Job {job.id}{label}: {job.kind} {given.model}{within}, {job.state}."

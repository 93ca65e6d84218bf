"""A job's events as they come, for people or as JSON; what watch and submit share."""

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from bitplan.cli.remote import RemoteOptions, headline
from bitplan.cli.show import show
from bitplan.console import Bars

if TYPE_CHECKING:
    from bitplan.service.client import Client
    from bitplan.service.records import Event

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number."""


class Detached(SystemExit):
    """Ends a command after Ctrl-C that has said itself what goes on."""


def follow(client: "Client", job_id: str, remote: RemoteOptions, *, as_json: bool) -> None:
    """Show what happens to a job until it has ended.

    As JSON that is an event a line. Raises `JobError` where the job has not succeeded. Ctrl-C
    leaves it running, and says so.
    """
    from bitplan.service.client.problems import job_error
    from bitplan.service.records import State

    options = remote.again()
    try:
        with Bars(hidden=as_json) as bars:
            screen = _Screen(bars)
            for event in client.watch(job_id):
                if as_json:
                    typer.echo(event.model_dump_json())
                else:
                    screen.show(event)
        job = client.job(job_id)
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True).print(
            "Watching has stopped; the job goes on. "
            f"See it again: bitplan watch {job_id}{options}\n"
            f"End it: bitplan cancel {job_id}{options}",
            markup=False,
            highlight=False,
        )
        raise Detached(INTERRUPTED) from None
    if job.state is not State.SUCCEEDED:
        raise job_error(job)
    fetch = f"Next: bitplan fetch {job_id} --out DIR{options}"
    if not as_json:
        show("", as_json, lambda: [headline(job), *screen.best(), fetch])


class _Screen:
    """Bars while there is progress, and a line for what stays true."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._best: dict[str, Any] | None = None

    def show(self, event: "Event") -> None:
        data, at = event.data, f"{event.at.astimezone():%H:%M:%S}"
        match event.kind:
            case "state":
                self._bars.say(f"{at} {data['state']}")
            case "progress":
                self._bars(data["stage"], data["done"], data["total"])
                if data.get("remark"):
                    self._bars.remark(data["stage"], data["remark"])
            case "remark":
                if data.get("kl") is not None:
                    self._best = data
                self._bars.remark(data["stage"], "; ".join(self.best()) or str(data["text"]))
            case "artefact":
                self._bars.say(f"{at} made {data['name']}, {data['bytes']:,} bytes")
            case "log" if str(data.get("level")).upper() in ("WARNING", "ERROR"):
                self._bars.say(f"{at} {data['message']}")

    def best(self) -> list[str]:
        """The best KL so far beside that of the uniform plan, where they were told."""
        if self._best is None:
            return []
        uniform = self._best.get("uniform_kl")
        beside = f", the uniform plan's {uniform:.4f}" if uniform is not None else ""
        return [f"best KL {self._best['kl']:.4f}{beside}"]

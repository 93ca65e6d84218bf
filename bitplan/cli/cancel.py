"""`bitplan cancel`: end a service's job."""

from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson
from bitplan.cli.remote import JobName, RemoteOptions, headline
from bitplan.cli.show import show


@grouped
def cancel(*, job: JobName, remote: RemoteOptions, as_json: AsJson = False) -> None:
    """End a job of a service; what it has made by then stays."""
    with remote.client() as client:
        now = client.cancel(job)
    more = [] if now.state.has_ended else ["It is being stopped."]
    show(now.model_dump_json(), as_json, lambda: [headline(now), *more])

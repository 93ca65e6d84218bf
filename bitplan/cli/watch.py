"""`bitplan watch`: see a service's job work."""

from bitplan.cli.follow import follow
from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson
from bitplan.cli.remote import JobName, RemoteOptions


@grouped
def watch(*, job: JobName, remote: RemoteOptions, as_json: AsJson = False) -> None:
    """Show what happens to a job of a service until it has ended; Ctrl-C leaves it running.

    With --json, an event a line.
    """
    with remote.client() as client:
        follow(client, job, remote, as_json=as_json)

"""`bitplan retry`: queue a service's job again."""

from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson
from bitplan.cli.remote import JobName, RemoteOptions, headline
from bitplan.cli.show import show


@grouped
def retry(*, job: JobName, remote: RemoteOptions, as_json: AsJson = False) -> None:
    """Queue a job again that failed or was cancelled; it goes on from what it had done."""
    with remote.client() as client:
        now = client.retry(job)
    follows = f"Next: bitplan watch {now.id}{remote.again()}"
    show(now.model_dump_json(), as_json, lambda: [headline(now), follows])

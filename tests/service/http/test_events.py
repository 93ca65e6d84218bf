"""Streams of events and what jobs made, as a worker's claim makes them."""

import io
import json
import tarfile
import threading
import time

import pytest

from bitplan.service.records import Artefact, Fault, State
from service_api import problem


@pytest.fixture
def work(api):
    """Takes up a new job of alice's and gives the means to tell of it."""

    def begin():
        job = api.submit().json()["id"]
        claim = api.service.store.claims.claim(job, "test")
        assert claim is not None
        return job, claim

    return begin


def told(text: str) -> list[dict]:
    """Events of a stream, without pings; `id` and `event` agree with the data."""
    events = []
    for part in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in part.split("\n") if not line.startswith(":") and line
        )
        if fields:
            data = json.loads(fields["data"])
            assert fields["id"] == str(data["number"])
            assert fields["event"] == data["kind"]
            events.append(data)
    return events


def test_a_stream_ends_with_the_job_and_goes_on_where_it_broke(api, work):
    claims = api.service.store.claims
    job, claim = work()
    path = f"/v1/jobs/{job}/events"

    def later() -> None:
        time.sleep(0.5)
        for done in range(3):
            claims.tell(claim, "progress", {"stage": "measure", "done": done, "total": 3})
        claims.finish(claim, State.FAILED, Fault(kind="X", message="no", is_input=True))

    thread = threading.Thread(target=later)
    thread.start()
    events = told(api("GET", path).text)
    thread.join()
    assert [event["number"] for event in events] == list(range(1, 7))
    assert [event["kind"] for event in events] == ["state", "state", *["progress"] * 3, "state"]
    assert events[-1]["data"]["state"] == "failed"
    assert told(api("GET", path, headers={"Last-Event-ID": "4"}).text) == events[4:]
    assert told(api("GET", path, params={"after": 2}).text) == events[2:]
    assert told(api("GET", path, params={"after": 6}).text) == []
    assert told(api("GET", path, params={"after": 600}).text) == []
    problem(api("GET", path, headers={"Last-Event-ID": "x"}), 422)
    api.service.store.jobs.retry(job)
    api.service.store.jobs.cancel(job)
    again = told(api("GET", path).text)
    assert [event["data"].get("state") for event in again[5:]] == ["failed", "queued", "cancelled"]
    assert api.service.watcher.readers == 0


def test_what_a_job_made(api, work):
    store = api.service.store
    job, claim = work()
    files = {
        "plan.json": (b"{}", "application/json"),
        "report.html": (b"<p>hello", "text/html"),
        "model/config.json": (b'{"a":1}', "application/json"),
        "model/sub/model.safetensors": (b"\x01" * 1000, "application/octet-stream"),
    }
    for name, (content, media_type) in files.items():
        digest = store.artefacts.shelf.add(content)
        size = len(content)
        artefact = Artefact(name=name, digest=digest, bytes=size, media_type=media_type)
        store.claims.add_artefact(claim, artefact)
    assert [one["name"] for one in api("GET", f"/v1/jobs/{job}/artefacts").json()] == list(files)
    for name, (content, media_type) in files.items():
        answer = api("GET", f"/v1/jobs/{job}/artefacts/{name}")
        assert answer.content == content
        assert answer.headers["content-type"].startswith(media_type)
        kept = {"If-None-Match": answer.headers["etag"]}
        assert api("GET", f"/v1/jobs/{job}/artefacts/{name}", headers=kept).status_code == 304
        assert answer.headers["content-security-policy"].startswith("sandbox")
        shown = "inline" if name == "report.html" else "attachment"
        assert answer.headers["content-disposition"].startswith(shown)
    part = api("GET", f"/v1/jobs/{job}/artefacts/plan.json", headers={"Range": "bytes=1-1"})
    assert (part.status_code, part.content) == (206, b"}")

    answer = api("GET", f"/v1/jobs/{job}/model.tar")
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert found == {name: files[name][0] for name in files if name.startswith("model/")}
    assert answer.content == api("GET", f"/v1/jobs/{job}/model.tar").content
    problem(api("GET", f"/v1/jobs/{api.submit().json()['id']}/model.tar"), 404, "made no model")


def test_keys_pages_and_filters(api):
    first = api("POST", "/v1/jobs", json=BODY, headers={"Idempotency-Key": "k1"})
    again = api("POST", "/v1/jobs", json=BODY, headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert first.headers["location"] == f"/v1/jobs/{first.json()['id']}"
    other = {**BODY, "label": "other"}
    problem(api("POST", "/v1/jobs", json=other, headers={"Idempotency-Key": "k1"}), 422, "k1")
    problem(api("POST", "/v1/jobs", json=BODY, headers={"Idempotency-Key": "a b"}), 422)

    made = [api.submit("bob").json()["id"] for _ in range(5)]
    page = api("GET", "/v1/jobs?limit=2", "bob").json()
    found = [job["id"] for job in page["jobs"]]
    while page["next"]:
        page = api("GET", f"/v1/jobs?limit=2&before={page['next']}", "bob").json()
        found += [job["id"] for job in page["jobs"]]
    assert found[:5] == made[::-1]
    api("POST", f"/v1/jobs/{made[0]}/cancel", "bob")
    cancelled = api("GET", "/v1/jobs?state=cancelled&kind=describe", "bob").json()["jobs"]
    assert [job["id"] for job in cancelled] == [made[0]]


BODY = {"parameters": {"kind": "describe", "model": "tiny"}, "label": "one"}

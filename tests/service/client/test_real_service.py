"""Both clients against the web app itself; the test does the workers' part."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import bitplan
from bitplan import AsyncClient, Client
from bitplan.errors import AccessError, JobInputError, RefusedError, UnreachableError
from bitplan.service.records import Scope, State
from running_service import Running, running, small_table
from scripted_service import FAULT, Awaited

TABLE = small_table()
FILES = {
    "costs.json": TABLE.to_json().encode(),
    "plan.json": bitplan.solve(TABLE, 0.000005).to_json().encode(),
    "report.html": b"<html></html>",
    "model/weights of a.safetensors": bytes(range(256)) * 3000,
    "model/größe.json": b"{}",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service")) as one:
        yield one


@pytest.fixture
def model(service) -> str:
    return str(service.settings.model_folders[0] / "tiny")


@pytest.fixture(params=["waiting", "awaited"])
def one(request, service) -> Iterator[Client]:
    made = Client if request.param == "waiting" else lambda url: Awaited(AsyncClient(url))
    client = made(service.url)
    yield client
    client.close()


def test_a_job_from_submission_to_files(one, service, model, tmp_path):
    job = one.submit("allocate", model=model, budget_gb=0.5, label="a", priority=2)
    assert (job.state, job.request.label, job.request.priority) == (State.QUEUED, "a", 2)
    assert one.job(job.id) == job
    assert one.jobs(limit=1) == [job]
    assert job in one.jobs(state="queued", kind="allocate")
    assert one.jobs(state="failed", limit=300) == []
    service.work(job, FILES)
    done = one.wait(job, timeout_s=60)
    assert done.state is State.SUCCEEDED
    events = list(one.watch(job))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[-1].data["state"] == "succeeded"
    assert list(one.watch(job, after=3)) == events[3:]
    assert list(one.watch(job, after=len(events))) == []
    one.fetch(job, tmp_path)
    fetched = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*.*")}
    assert fetched == FILES
    assert one.plan(job) == bitplan.Plan.load(tmp_path / "plan.json")
    assert one.table(job) == TABLE


def test_partial_files_go_on_where_they_ended(one, service, model, tmp_path):
    job = one.submit("allocate", model=model, budget_gb=0.5)
    service.work(job, FILES)
    (artefact,) = (a for a in one.job(job).artefacts if a.name.startswith("model/weights"))
    (tmp_path / "model").mkdir()
    part = tmp_path / "model" / f".weights of a.safetensors.{artefact.digest[:16]}.part"
    part.write_bytes(FILES[artefact.name][:500_001])
    (path,) = one.fetch(job, tmp_path, only=artefact.name)
    assert path.read_bytes() == FILES[artefact.name]
    assert not part.exists()


def test_solving_a_table_of_a_job_and_one_that_is_sent(one, service, model, tmp_path):
    job = one.submit("measure", model=model)
    service.work(job, {"costs.json": FILES["costs.json"]})
    job = one.job(job)
    plan = one.solve(job, 0.000005)
    assert plan == bitplan.solve(TABLE, 0.000005)
    pinned = one.solve(job, 0.00002, constraints={"pins": {"a": "int2g32"}})
    assert str(pinned.choices[0].scheme) == "int2g32"
    curve = one.frontier(job.id, points=5)
    assert [point.bytes for point in curve.points] == sorted(p.bytes for p in curve.points)
    assert {u.scheme for u in curve.uniform} <= {"int2g32", "int4g32", "bf16"}
    TABLE.save(tmp_path / "costs.json")
    digest = one.upload(tmp_path / "costs.json")
    assert one.table(digest) == TABLE
    sent = one.upload(plan)
    assert one.plan(sent) == plan
    assert one.submit("apply", model=model, plan=sent).kind == "apply"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, m: c.submit("allocate", model="/etc", budget_gb=1), "model"),
        (lambda c, m: c.submit("allocate", model=f"{m}/../../..", budget_gb=1), "model"),
        (lambda c, m: c.submit("apply", model=m, plan="0" * 64), "plan"),
        (lambda c, m: c.job("0" * 32), "job"),
        (lambda c, m: list(c.watch("0" * 32)), "job"),
        (lambda c, m: c.plan("0" * 64), "plan"),
        (lambda c, m: c.solve("0" * 64, 1.0), "table"),
        (lambda c, m: c.solve("0" * 64, -1.0), "budget_gb"),
        (lambda c, m: c.jobs(state="sleeping"), "state"),
        (lambda c, m: c.describe_model("nobody/nothing"), "nobody"),
    ],
)
def test_what_the_service_refuses_is_said(call, message, one, model):
    with pytest.raises(RefusedError, match=message) as caught:
        call(one, model)
    assert type(caught.value) is RefusedError


def test_one_key_is_one_job(one, model):
    jobs = [one.submit("describe", model=model, idempotency_key=f"k{id(one)}") for _ in range(3)]
    assert len({job.id for job in jobs}) == 1
    with pytest.raises(RefusedError, match="key"):
        one.submit("describe", model=model, batch=2, idempotency_key=f"k{id(one)}")


def test_a_failed_job_is_an_error_and_can_be_tried_again(one, service, model):
    job = one.submit("allocate", model=model, budget_gb=0.5)
    service.work(job, {}, FAULT)
    with pytest.raises(JobInputError, match="The budget is too small"):
        one.wait(job)
    assert one.retry(job).state is State.QUEUED
    service.work(job, FILES)
    assert one.wait(job).state is State.SUCCEEDED
    states = [e.data["state"] for e in one.watch(job) if e.kind == "state"]
    assert states == ["queued", "running", "failed", "queued", "running", "succeeded"]
    with pytest.raises(RefusedError, match="succeeded"):
        one.retry(job)


def test_cancelling(one, service, model):
    job = one.submit("describe", model=model)
    assert one.cancel(job).state is State.CANCELLED
    assert one.cancel(job).state is State.CANCELLED
    running_job = one.submit("describe", model=model)
    service.take(running_job)
    assert one.cancel(running_job).is_cancelling


def test_models(one, model):
    told = one.models()
    assert [entry.name for entry in told.models] == ["tiny"]
    assert told.models[0].path == model


def during(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_service_that_dies_while_a_job_is_watched(service, model):
    one = Client(service.url)
    job = one.submit("allocate", model=model, budget_gb=0.5)
    claim = service.take(job)
    tell = service.store.claims.tell
    tell(claim, "progress", {"stage": "measure", "done": 0, "total": 40})

    def work() -> None:
        for count in range(1, 41):
            tell(claim, "progress", {"stage": "measure", "done": count, "total": 40})
            if count == 25:
                service.stop()
                time.sleep(0.2)
                service.start()
        service.store.claims.finish(claim, State.SUCCEEDED)

    thread = during(work)
    events = list(one.watch(job))
    thread.join()
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [e.data["done"] for e in events if e.kind == "progress"] == list(range(41))
    assert events[-1].data["state"] == "succeeded"
    one.close()


def test_many_watch_at_once(service, model):
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            job = await client.submit("allocate", model=model, budget_gb=0.5)

            async def numbers() -> list[int]:
                return [event.number async for event in client.watch(job)]

            watching = [asyncio.create_task(numbers()) for _ in range(8)]
            await asyncio.sleep(0.2)
            await asyncio.to_thread(service.work, job, FILES)
            heard = await asyncio.gather(*watching)
            assert len({tuple(each) for each in heard}) == 1

    asyncio.run(main())


def test_cancelling_a_task_that_watches_leaves_nothing_open(service, model):
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            job = await client.submit("allocate", model=model, budget_gb=0.5)

            async def watch() -> None:
                async for _ in client.watch(job):
                    pass

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watch(), 0.3)
            assert (await client.cancel(job)).state is State.CANCELLED

    asyncio.run(main())


def test_a_service_that_is_not_there():
    with Client("http://127.0.0.1:9", patience_s=0.2) as client, pytest.raises(UnreachableError):
        client.jobs()


def test_tokens(tmp_path, service):
    with running(tmp_path, token_required=True) as closed:
        secrets = {
            name: closed.store.tokens.create(name, scope)[1]
            for name, scope in [("ann", Scope.SUBMIT), ("ben", Scope.SUBMIT), ("eve", Scope.READ)]
        }
        _, expired = closed.store.tokens.create("old", Scope.ADMIN, expires_in_s=0.001)
        model = str(closed.settings.model_folders[0] / "tiny")
        clients = {name: Client(closed.url, secret) for name, secret in secrets.items()}
        job = clients["ann"].submit("describe", model=model)
        assert clients["ann"].job(job).owner == "ann"
        for verb in ("job", "cancel", "retry", "wait", "plan"):
            with pytest.raises(RefusedError, match="no"):
                getattr(clients["ben"], verb)(job)
        with pytest.raises(AccessError, match="submit"):
            clients["eve"].submit("describe", model=model)
        for secret in (None, "bpl_wrong", expired):
            with Client(closed.url, secret) as client, pytest.raises(AccessError) as caught:
                client.jobs()
            assert "--token-file or BITPLAN_TOKEN" in str(caught.value)
            assert secret is None or secret not in str(caught.value)
        for client in clients.values():
            client.close()


def test_the_async_client_speaks_to_the_app_itself(service):
    """Without a socket, as tests of an application that uses it do."""

    async def main() -> None:
        transport = httpx.ASGITransport(service.app)
        async with AsyncClient("http://localhost", transport=transport) as client:
            assert (await client.models()).models[0].name == "tiny"

    asyncio.run(main())


def test_where_files_go_is_a_path_or_text(one, service, model, tmp_path):
    job = one.submit("describe", model=model)
    service.work(job, {"description.json": b"{}"})
    assert one.fetch(job, str(tmp_path)) == [Path(tmp_path, "description.json")]

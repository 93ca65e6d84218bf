"""Jobs in the database: submitted once, claimed once, ended once, whoever tries at once."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from bitplan.service.records import Artefact, Fault, Scope, State
from bitplan.service.store import KeyReused, LeaseLost, NoSuchJob, NotRetryable, Store
from bitplan.service.store.tables import jobs

FAULT = Fault(kind="ModelError", message="There is no model.", is_input=True)


def numbers_and_states(store: Store, job_id: str) -> list[tuple[int, str | None]]:
    return [(event.number, event.data.get("state")) for event in store.jobs.events(job_id)]


def test_a_job_from_its_submission_to_its_end(store, job_request):
    job, is_new = store.jobs.submit(job_request(label="mine"), owner="ann")
    assert is_new
    assert (job.state, job.attempt, job.request.label) == (State.QUEUED, 0, "mine")
    claim = store.claims.claim(job.id, "w")
    assert claim is not None
    assert claim.job.state is State.RUNNING
    assert store.claims.claim(job.id, "other") is None
    for done in (0, 1):
        store.claims.tell(claim, "progress", {"stage": "load", "done": done, "total": 1})
    digest = store.artefacts.shelf.add(b"{}")
    artefact = Artefact(name="plan.json", digest=digest, bytes=2, media_type="application/json")
    for _ in range(2):  # the second takes the first's place
        store.claims.add_artefact(claim, artefact)
    assert store.claims.finish(claim, State.SUCCEEDED)
    ended = store.jobs.get(job.id)
    assert (ended.state, ended.artefacts, ended.fault) == (State.SUCCEEDED, (artefact,), None)
    assert ended.progress is not None
    assert ended.progress.done == 1
    assert ended.started_at <= ended.ended_at
    events = store.jobs.events(job.id)
    assert [event.number for event in events] == list(range(1, 8))
    assert [event.kind for event in events] == [
        *("state", "state", "progress", "progress", "artefact", "artefact", "state")
    ]
    assert store.jobs.events(job.id, after=5, limit=1) == events[5:6]
    assert store.artefacts.of(job.id) == [artefact]
    assert store.jobs.counts()[State.SUCCEEDED] == 1
    with pytest.raises(NotRetryable, match="has succeeded"):
        store.jobs.retry(job.id)


def test_of_many_who_claim_at_once_one_has_it(store, job_request):
    ids = [store.jobs.submit(job_request(), owner="ann")[0].id for _ in range(10)]
    gate = threading.Barrier(8)

    def claim_all(worker: int) -> list[str]:
        gate.wait()
        return [name for name in ids if store.claims.claim(name, str(worker)) is not None]

    with ThreadPoolExecutor(8) as pool:
        claimed = [name for names in pool.map(claim_all, range(8)) for name in names]
    assert sorted(claimed) == sorted(ids)
    assert {store.jobs.get(name).attempt for name in ids} == {1}


def test_of_many_with_one_key_one_makes_a_job(store, job_request):
    gate = threading.Barrier(8)

    def submit(_: int) -> tuple[str, bool]:
        gate.wait()
        job, is_new = store.jobs.submit(job_request(), owner="ann", idempotency_key="k")
        return job.id, is_new

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(submit, range(8)))
    assert len({job_id for job_id, _ in made}) == 1
    assert sum(is_new for _, is_new in made) == 1
    with pytest.raises(KeyReused, match="whose request is another"):
        store.jobs.submit(job_request("/models/other"), owner="ann", idempotency_key="k")
    assert store.jobs.submit(job_request(), owner="bob", idempotency_key="k")[1]


def test_events_that_many_tell_at_once_have_no_gaps(store, job_request):
    job, _ = store.jobs.submit(job_request(), owner="ann")
    claim = store.claims.claim(job.id, "w")
    data = {"level": "info", "message": "x"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.claims.tell(claim, "log", data), range(40)))
    assert [event.number for event in store.jobs.events(job.id)] == list(range(1, 43))


def test_an_attempt_that_lost_its_job_changes_nothing(store, job_request):
    job, _ = store.jobs.submit(job_request(), owner="ann")
    old = store.claims.claim(job.id, "old")
    assert store.claims.release(old, ran_s=4, reason="It died")
    new = store.claims.claim(job.id, "new")
    assert (new.attempt, new.used_s) == (2, 4)
    before = store.jobs.events(job.id)
    artefact = Artefact(name="plan.json", digest=store.artefacts.shelf.add(b"{}"), bytes=2)
    for deed in (
        lambda: store.claims.beat(old),
        lambda: store.claims.tell(old, "log", {"level": "info", "message": "x"}),
        lambda: store.claims.add_artefact(old, artefact),
    ):
        with pytest.raises(LeaseLost, match="Attempt 1 of job"):
            deed()
    assert not store.claims.finish(old, State.FAILED, FAULT)
    assert not store.claims.release(old)
    assert store.jobs.events(job.id) == before
    assert store.claims.finish(new, State.SUCCEEDED)
    assert not store.claims.finish(new, State.FAILED, FAULT)
    assert store.jobs.get(job.id).artefacts == ()


def later(store: Store, seconds: float) -> None:
    """Have all leases run as if so much time had passed."""
    with store.database.write() as connection:
        connection.execute(update(jobs).values(lease_until=jobs.c.lease_until - seconds))


@pytest.mark.parametrize("is_cancelling", [False, True])
def test_a_job_whose_worker_is_silent_is_free(service_settings, job_request, is_cancelling):
    few = service_settings.model_copy(update={"lease_s": 1000, "most_deaths": 2})
    with contextlib.closing(Store.open(few)) as store:
        job, _ = store.jobs.submit(job_request(), owner="ann")
        first = store.claims.claim(job.id, "w")
        later(store, 700)
        assert store.claims.overdue() == []
        store.claims.beat(first, ran_s=700)
        later(store, 700)
        assert store.claims.overdue() == []
        if is_cancelling:
            store.jobs.cancel(job.id)
        later(store, 700)
        assert store.claims.overdue() == ([] if is_cancelling else [job.id])
        assert store.claims.overdue() == []
        with pytest.raises(LeaseLost):
            store.claims.beat(first)
        if is_cancelling:
            assert store.jobs.get(job.id).state is State.CANCELLED
            return
        assert store.claims.claim(job.id, "w").used_s == 700
        later(store, 1400)
        assert store.claims.overdue() == []
        fault = store.jobs.get(job.id).fault
        assert fault is not None
        assert "died 2 times" in fault.message
        assert store.jobs.retry(job.id).state is State.QUEUED
        assert store.claims.claim(job.id, "w").used_s == 0


def test_cancel_and_retry(store, job_request):
    job, _ = store.jobs.submit(job_request(), owner="ann")
    assert store.jobs.cancel(job.id).state is State.CANCELLED
    assert store.jobs.cancel(job.id).state is State.CANCELLED
    assert store.claims.claim(job.id, "w") is None
    again = store.jobs.retry(job.id)
    assert (again.state, again.ended_at) == (State.QUEUED, None)
    assert store.jobs.retry(job.id) == again
    claim = store.claims.claim(job.id, "w")
    assert not store.claims.beat(claim)
    assert store.jobs.cancel(job.id).is_cancelling
    assert store.claims.beat(claim)
    assert store.claims.finish(claim, State.FAILED, FAULT)
    assert store.jobs.get(job.id).fault == FAULT
    retried = store.jobs.retry(job.id)
    assert (retried.fault, retried.is_cancelling) == (None, False)
    states = [state for _, state in numbers_and_states(store, job.id) if state]
    assert states == ["queued", "cancelled", "queued", "running", "failed", "queued"]


def test_lists_by_owner_state_kind_and_page(store, job_request):
    ids = [
        store.jobs.submit(job_request(), owner=owner)[0].id
        for owner in ("ann", "bob", "ann", "ann")
    ]
    store.jobs.cancel(ids[3])
    assert [job.id for job in store.jobs.list()] == ids[::-1]
    assert [job.id for job in store.jobs.list(owner="ann", limit=2)] == [ids[3], ids[2]]
    assert [job.id for job in store.jobs.list(owner="ann", before=ids[2])] == [ids[0]]
    assert [job.id for job in store.jobs.list(states=[State.CANCELLED])] == [ids[3]]
    assert store.jobs.list(kinds=["measure"]) == []
    assert list(store.jobs.queued()) == ids[:3]
    for deed in (store.jobs.get, store.jobs.cancel, store.jobs.retry):
        with pytest.raises(NoSuchJob):
            deed(ids[1], owner="ann")
    with pytest.raises(NoSuchJob):
        store.jobs.list(owner="ann", before=ids[1])


def test_artefacts_are_found_by_those_who_may(store):
    first = store.artefacts.keep(b"1", name="plan.json", owner="ann", media_type="text/plain")
    assert store.artefacts.keep(b"1", name="plan.json", owner="ann", media_type="x") == first
    store.artefacts.keep(b"1", name="plan.json", owner="bob", media_type="text/plain")
    other = store.artefacts.keep(b"2", name="plan.json", owner="bob", media_type="text/plain")
    assert store.artefacts.path(first.digest).read_bytes() == b"1"
    assert store.artefacts.find(first.digest, name="plan.json", owner="ann") == first
    assert store.artefacts.find(first.digest, name="costs.json") is None
    assert store.artefacts.find(other.digest, name="plan.json", owner="ann") is None
    assert [kept.artefact for kept in store.artefacts.listing("plan.json")] == [other, first]
    assert [kept.artefact for kept in store.artefacts.listing("plan.json", owner="ann")] == [first]


def test_tokens_are_kept_as_digests_and_expire(store):
    token, secret = store.tokens.create("ann", Scope.SUBMIT)
    assert secret.startswith("bpl_")
    assert store.tokens.check(secret) == token
    assert store.tokens.check(secret + "x") is None
    _, brief = store.tokens.create("bob", Scope.READ, expires_in_s=-1)
    assert store.tokens.check(brief) is None
    assert store.tokens.revoke(token.id).revoked_at is not None
    assert store.tokens.check(secret) is None
    assert len(store.tokens.list()) == 2
    store.audit.note("ann", "submit", "job", "request", "127.0.0.1")
    assert [note.actor for note in store.audit.list()] == ["ann"]

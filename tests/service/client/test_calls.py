"""Single requests: what is sent, what is tried again, and what its answers mean."""

import json

import httpx
import pytest

from bitplan.errors import (
    AccessError,
    BitplanError,
    InputError,
    JobError,
    JobInputError,
    RefusedError,
    ServiceError,
    UnreachableError,
)
from bitplan.service.client.backoff import pauses
from bitplan.service.records import JobRequest, State
from scripted_service import FAULT, JOB, Script, a_job, problem, told

REFUSED = httpx.ConnectError("[Errno 111] Connection refused")
CUT = httpx.ReadError("connection reset")


def test_a_submission_says_what_the_job_is(client):
    script = Script(told(a_job(), 201))
    job = client(script, token="bpl_secret").submit(
        "allocate", model="/models/tiny", budget_gb=0.5, priority=3, limits={"time_s": 60}
    )
    assert job == a_job()
    (request,) = script.requests
    assert script.asked == ["POST /v1/jobs"]
    assert request.headers["authorization"] == "Bearer bpl_secret"
    assert request.headers["user-agent"].startswith("bitplan/")
    sent = JobRequest.model_validate_json(request.content)
    assert (sent.parameters.kind, sent.priority, sent.limits.time_s) == ("allocate", 3, 60)


@pytest.mark.parametrize("lost", [REFUSED, CUT, httpx.ReadTimeout("x"), problem(503, "Starting.")])
def test_a_submission_is_sent_again_with_the_same_key(lost, client):
    script = Script(lost, told(a_job()))
    assert client(script).submit("describe", model="m") == a_job()
    first, second = (request.headers["idempotency-key"] for request in script.requests)
    assert first == second


def test_each_submission_has_a_key_of_its_own_unless_one_is_given(client):
    script = Script(told(a_job()))
    one = client(script)
    for key in (None, None, "nightly-7"):
        one.submit("describe", model="m", idempotency_key=key)
    keys = [request.headers["idempotency-key"] for request in script.requests]
    assert len({*keys}) == 3
    assert keys[2] == "nightly-7"


def test_a_whole_request_can_be_submitted(client):
    script = Script(told(a_job()))
    client(script).submit(a_job().request)
    assert json.loads(script.requests[0].content) == a_job().request.model_dump(mode="json")
    with pytest.raises(InputError, match="whole request was given, and parameters too"):
        client(script).submit(a_job().request, model="m")


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("allocat", {}, "Did you mean 'allocate'"),
        ("allocate", {"model": "m"}, "needs budget_gb"),
        (
            "allocate",
            {"model": "m", "buget_gb": 1},
            "takes no 'buget_gb'. Did you mean 'budget_gb'",
        ),
        ("allocate", {"model": "m", "budget_gb": 0}, "budget_gb: .* greater than 0, but it is 0"),
        (
            "allocate",
            {"model": "m", "budget_gb": 1, "constraints": {"fus": 1}},
            r"no 'constraints.fus'. Did you mean 'fuse'\? In constraints it takes pins",
        ),
        ("apply", {"model": "m", "plan": "x"}, "plan: "),
        ("describe", {"model": "m", "priority": 11}, "priority: .* less than or equal to 10"),
        ("describe", {"model": "m", "limits": {"time": 1}}, "limits.time"),
        ("describe", {"model": "m", "idempotency_key": "größe"}, "cannot be a key"),
        ("describe", {"model": "m", "idempotency_key": ""}, "cannot be a key"),
        ("describe", {"model": "m", "idempotency_key": "a b"}, "cannot be a key"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_sent(kind, parameters, message, client):
    script = Script(told(a_job()))
    with pytest.raises(InputError, match=message):
        client(script).submit(kind, **parameters)
    assert script.requests == []


@pytest.mark.parametrize("name", ["", "..", "1" * 31, "G" * 32, f"{JOB}/../.."])
@pytest.mark.parametrize("verb", ["job", "cancel", "retry", "watch", "wait"])
def test_what_is_no_job_id_is_not_sent(name, verb, client):
    script = Script(told(a_job()))
    with pytest.raises(InputError, match="is no job's id"):
        list(getattr(client(script), verb)(name))
    assert script.requests == []


def test_a_service_that_is_not_there_is_said_after_some_tries(client):
    script = Script(REFUSED)
    with pytest.raises(UnreachableError) as caught:
        client(script).job(JOB)
    assert len(script.requests) > 2
    for words in ("http://service.test", "Connection refused", "bitplan serve"):
        assert words in str(caught.value)


def test_what_must_not_be_done_twice_is_not_sent_twice(client):
    script = Script(CUT)
    with pytest.raises(UnreachableError, match="may have been done or not"):
        client(script).retry(JOB)
    assert len(script.requests) == 1
    script = Script(REFUSED, told(a_job()))  # it was not received
    assert client(script).retry(JOB) == a_job()


def test_too_many_requests_wait_as_long_as_they_are_told(client):
    script = Script(problem(429, "Too many.", **{"retry-after": "0"}), told(a_job()))
    assert client(script).retry(JOB) == a_job()
    script = Script(problem(429, "Too many.", **{"retry-after": "4000"}))
    with pytest.raises(ServiceError, match=r"Too many\. Try again in 4000 s"):
        client(script).job(JOB)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error", "messages"),
    [
        (problem(401, "The token is not known"), AccessError, ["not known.", "--token-file"]),
        (problem(403, "This needs the scope submit."), AccessError, ["scope submit."]),
        (problem(404, "There is no such job."), RefusedError, ["There is no such job."]),
        (problem(409, "The key was used."), RefusedError, ["The key was used."]),
        (problem(422, "Raise the budget."), RefusedError, ["Raise the budget."]),
        (problem(500, "Sorry"), ServiceError, ["its fault (500, logged as request r1)", "Sorry."]),
        (httpx.Response(404, text="<html>"), RefusedError, ["is not a bitplan service"]),
        (httpx.Response(404, content="{}"), RefusedError, ["is not a bitplan service"]),
        (
            httpx.Response(404, json={"detail": [1]}),
            RefusedError,
            ["[1]"],
        ),
        (
            httpx.Response(301, headers={"location": "https://service.test/"}),
            RefusedError,
            ["redirects", "https://service.test/"],
        ),
        (httpx.Response(200, text="<html>"), ServiceError, ["cannot read", "Check the address"]),
        (httpx.Response(200, json={"id": JOB}), ServiceError, ["cannot read", "same version"]),
        (httpx.Response(500, text="oh"), ServiceError, ["status 500", "its fault"]),
        (httpx.Response(502, text="bad gateway"), ServiceError, ["status 502"]),
    ],
)
def test_answers_become_errors_that_say_what_to_do(answer, error, messages, client):
    with pytest.raises(error) as caught:
        client(Script(answer)).job(JOB)
    assert type(caught.value) is error
    assert isinstance(caught.value, BitplanError)
    assert isinstance(caught.value, InputError) == issubclass(error, RefusedError)
    for message in messages:
        assert message in str(caught.value)


def test_jobs_are_listed_page_by_page(client):
    def page(request: httpx.Request) -> httpx.Response:
        many = int(request.url.params["limit"])
        content = {"jobs": [a_job().model_dump(mode="json")] * many, "next": JOB}
        return httpx.Response(200, json=content)

    script = Script(page)
    assert len(client(script).jobs(limit=230, state="queued")) == 230
    assert script.asked == [
        "GET /v1/jobs?state=queued&limit=200",
        f"GET /v1/jobs?state=queued&limit=30&before={JOB}",
    ]


def test_waiting_ends_with_the_job(client):
    running = a_job(State.RUNNING, progress={"stage": "measure", "done": 3, "total": 9})
    script = Script(told(a_job()), CUT, told(running), told(a_job(State.SUCCEEDED)))
    seen: list = []
    done = client(script).wait(a_job(), progress=lambda *now: seen.append(now))
    assert done.state is State.SUCCEEDED
    assert seen == [("measure", 3, 9)]


@pytest.mark.parametrize(
    ("state", "fault", "error", "message"),
    [
        ("failed", FAULT, JobInputError, "failed (InfeasibleError): The budget is too small."),
        ("failed", FAULT.model_copy(update={"is_input": False}), JobError, "failed (Infeasible"),
        ("failed", None, JobError, "failed."),
        ("cancelled", None, JobError, "was cancelled"),
    ],
)
def test_a_job_that_fails_is_an_error(state, fault, error, message, client):
    with pytest.raises(error) as caught:
        client(Script(told(a_job(state, fault=fault)))).wait(JOB)
    assert type(caught.value) is error
    assert isinstance(caught.value, InputError) == (error is JobInputError)
    assert message in str(caught.value)
    assert caught.value.job == JOB


def test_waiting_has_an_end(client):
    with pytest.raises(ServiceError, match=r"is running after 0.2 s. It goes on"):
        client(Script(told(a_job("running")))).wait(JOB, timeout_s=0.2)


@pytest.mark.parametrize("patience_s", [0, 0.05, 1, 30])
def test_pauses_grow_and_keep_within_patience(patience_s):
    waits = list(pauses(patience_s))
    assert sum(waits) <= patience_s
    assert all(0.05 <= wait <= 5 for wait in waits)
    assert patience_s < 1 or sum(waits) > patience_s - 5

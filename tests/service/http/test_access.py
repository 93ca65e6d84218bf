"""Who may do what: tokens, scopes, owners, sessions, names of hosts, rates."""

import re
import time

import pytest

from bitplan.service.records import Scope
from service_api import problem


@pytest.mark.parametrize("path", ["/v1/me", "/v1/jobs", "/v1/models", "/v1/tables", "/v1/audit"])
def test_a_token_is_needed(api, path):
    answer = api("GET", path, who=None)
    problem(answer, 401, "needs a token")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header", ["Bearer bpl_wrong", "Bearer ", "Basic abc", "bpl_x", "Bearer é"]
)
def test_a_wrong_token_is_refused(api, header):
    answer = api.client.get("/v1/me", headers={"Authorization": header.encode("latin-1")})
    problem(answer, 401)
    assert "bpl_wrong" not in answer.text


def test_expired_and_revoked_tokens_are_refused(api):
    store = api.service.store
    _, secret = store.tokens.create("short", Scope.READ, 0.2)
    header = {"Authorization": f"Bearer {secret}"}
    assert api.client.get("/v1/me", headers=header).json()["name"] == "short"
    time.sleep(0.25)
    problem(api.client.get("/v1/me", headers=header), 401, "expired")
    made = api("POST", "/v1/tokens", "root", json={"name": "gone", "scope": "read"}).json()
    header = {"Authorization": f"Bearer {made['secret']}"}
    assert api.client.get("/v1/me", headers=header).status_code == 200
    revoked = api("DELETE", f"/v1/tokens/{made['token']['id']}", "root")
    assert revoked.json()["revoked_at"]
    problem(api.client.get("/v1/me", headers=header), 401, "revoked")
    assert made["secret"] not in api("GET", "/v1/tokens", "root").text


@pytest.mark.parametrize(
    ("who", "method", "path"),
    [
        ("eve", "POST", "/v1/jobs"),
        ("eve", "POST", "/v1/tables"),
        ("eve", "POST", "/v1/jobs/" + "0" * 32 + "/cancel"),
        ("alice", "GET", "/v1/tokens"),
        ("alice", "POST", "/v1/tokens"),
        ("bob", "GET", "/v1/audit"),
    ],
)
def test_scopes(api, who, method, path):
    body = {"parameters": {"kind": "describe", "model": "tiny"}}
    if path == "/v1/tokens":
        body = {"name": "x", "scope": "admin"}
    problem(api(method, path, who, json=body), 403, "scope")


def test_jobs_of_others_are_not_there(api):
    job = api.submit("alice").json()["id"]
    for method, path in [
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/artefacts"),
        ("GET", "/model.tar"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ]:
        problem(api(method, f"/v1/jobs/{job}{path}", "bob"), 404)
    assert job not in api("GET", "/v1/jobs", "bob").text
    problem(api("GET", f"/v1/jobs?before={job}", "bob"), 404)
    assert job in api("GET", "/v1/jobs?limit=200", "root").text
    assert api("POST", f"/v1/jobs/{job}/cancel", "root").json()["state"] == "cancelled"


def test_tables_of_others_are_not_there(api, table):
    assert api("GET", f"/v1/tables/{table}").status_code == 200
    problem(api("GET", f"/v1/tables/{table}", "bob"), 404)
    problem(api("POST", "/v1/plans", "bob", json={"table": table, "budget_gb": 1}), 404)
    problem(api("POST", "/v1/frontier", "bob", json={"table": table}), 404)


def test_sessions(api):
    client, secret = api.client, api.secrets["alice"]
    problem(client.post("/v1/session", json={"token": "bpl_no"}), 401)
    cross = {"Sec-Fetch-Site": "cross-site"}
    problem(client.post("/v1/session", json={"token": secret}, headers=cross), 403, "another site")
    answer = client.post("/v1/session", json={"token": secret})
    cookie = answer.headers["set-cookie"]
    assert answer.json()["name"] == "alice"
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    try:
        assert client.get("/v1/me").json()["name"] == "alice"
        body = {"parameters": {"kind": "describe", "model": "tiny"}}
        for headers in (
            cross,
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
        ):
            problem(client.post("/v1/jobs", json=body, headers=headers), 403, "another site")
        ours = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        assert client.post("/v1/jobs", json=body, headers=ours).status_code == 201
        assert client.delete("/v1/session").status_code == 204
        problem(client.get("/v1/me"), 401)
    finally:
        client.cookies.clear()


@pytest.mark.parametrize(
    ("host", "required"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("::", True)],
)
def test_a_token_is_needed_by_default_everywhere_but_on_loopback(served, host, required):
    api = served(host=host)
    status = api("GET", "/v1/me", who=None).status_code
    assert status == (401 if required else 200)
    assert api("GET", "/v1/me").json()["token_required"] is required


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_without_tokens_only_loopback_names_are_answered(served, host):
    api = served()
    problem(api("GET", "/v1/me", who=None, headers={"Host": host}), 421, "localhost")
    good = {"Host": "[::1]:8642"}
    assert api("GET", "/v1/me", who=None, headers=good).json()["scope"] == "admin"
    evil = {"Origin": "http://evil.example"}
    problem(api("POST", "/v1/jobs", who=None, json={}, headers=evil), 403)


def test_rates(served):
    api = served(token_required=True, read_rate="5/minute", submit_rate="2/minute")
    answers = [api("GET", "/v1/me") for _ in range(6)]
    assert [each.status_code for each in answers[:5]] == [200] * 5
    problem(answers[5], 429, "5 in a minute")
    assert re.fullmatch(r"\d+", answers[5].headers["retry-after"])
    assert api("GET", "/v1/me", "bob").status_code == 200
    guesses = [
        api.client.get("/v1/me", headers={"Authorization": f"Bearer bpl_{turn}"})
        for turn in range(31)
    ]
    problem(guesses[29], 401)
    problem(guesses[30], 429, "wrong tokens")
    # Behind a proxy all have one address: a good token works on.
    assert api("GET", "/v1/me", "root").status_code == 200
    assert api.client.post("/v1/session", json={"token": api.secrets["root"]}).status_code == 200
    problem(api.client.post("/v1/session", json={"token": "bpl_other"}), 429, "wrong tokens")


def test_deeds_are_in_the_audit_log(api):
    job = api.submit("alice").json()["id"]
    api("POST", f"/v1/jobs/{job}/cancel")
    api("POST", f"/v1/jobs/{job}/retry")
    deeds = api("GET", "/v1/audit?limit=1000", "root").json()
    ours = [(one["actor"], one["action"]) for one in deeds if job in one["subject"]]
    assert ours == [("alice", "retry"), ("alice", "cancel"), ("alice", "submit")]
    assert all(one["request_id"] and one["address"] for one in deeds)
    assert not any(secret in str(deeds) for secret in api.secrets.values())

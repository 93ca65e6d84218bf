"""What a stranger may send, and how it is refused: with a problem, and the service goes on."""

import asyncio
import gzip
import json
import resource
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from service_api import problem, table_of

DIGEST = "0" * 64
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def _goes_on(api) -> Iterator[None]:
    yield
    assert api("GET", "/healthz").json() == {"status": "ok"}
    assert api("GET", "/v1/me").json()["name"] == "alice"


OUTSIDE = [
    "../",
    "../secret",
    "tiny/../../secret",
    "tiny/../tiny",
    "/etc/passwd",
    "/etc",
    "~/models",
    "..%2f..%2fetc",
    "....//....//etc",
    "tiny\0",
    "\0",
    " ",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "C:\\Windows",
    "x" * 1000,
    "\ud800",
    "someone/model",
    "HuggingFaceTB/../x",
]


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_models_outside_of_what_is_allowed(api, name):
    body = json.dumps({"parameters": {"kind": "describe", "model": name}})
    problem(api("POST", "/v1/jobs", content=body, headers=JSON), 422)
    if "\ud800" not in name:
        problem(api("GET", "/v1/models/description", params={"model": name}), 422)


@pytest.mark.parametrize("name", ["../", "/etc/passwd", "notes.txt\0", "tiny"])
def test_text_outside_of_what_is_allowed(api, name):
    parameters = {"kind": "measure", "model": "tiny", "calibration": name}
    problem(api("POST", "/v1/jobs", json={"parameters": parameters}), 422, "text")


@pytest.mark.parametrize(
    "name", ["%2e%2e/%2e%2e/secret", "..%2F..%2Fsecret", "/etc/passwd", "%00", "a/../b", "x"]
)
def test_artefacts_are_no_paths(api, name):
    job = api.submit().json()["id"]
    answer = api("GET", f"/v1/jobs/{job}/artefacts/{name}")
    problem(answer, 404)


@pytest.mark.parametrize("digest", ["../x", "..", "A" * 64, "0" * 63, "%2e%2e%2f"])
@pytest.mark.parametrize("kind", ["tables", "plans"])
def test_digests_are_no_paths(api, kind, digest):
    assert api("GET", f"/v1/{kind}/{digest}").status_code in (404, 405, 422)


@pytest.mark.parametrize(
    "parameters",
    [
        {"kind": "steal", "model": "tiny"},
        {"kind": "describe"},
        {"kind": "describe", "model": "tiny", "trust_remote_code": True},
        {"kind": "describe", "model": 7},
        {"kind": "measure", "model": "tiny", "schemes": ["int99"]},
        {"kind": "measure", "model": "tiny", "engine": "ray://elsewhere:10001"},
        {"kind": "measure", "model": "tiny", "engine": "10.0.0.1:6379"},
        {"kind": "measure", "model": "tiny", "workers": 100000},
        {"kind": "allocate", "model": "tiny", "budget_gb": -1},
        {"kind": "allocate", "model": "tiny"},
        {"kind": "apply", "model": "tiny", "plan": "../x"},
        {"kind": "apply", "model": "tiny", "plan": DIGEST},
    ],
    ids=str,
)
def test_parameters(api, parameters):
    problem(api("POST", "/v1/jobs", json={"parameters": parameters}), 422)


def test_limits_beyond_the_servers(api):
    problem(api.submit(limits={"time_s": 7200}), 422, "asks for 7200 s of time", "allows 3600")
    assert api.submit(limits={"time_s": 60}).status_code == 201


DEEP = 200_000
BROKEN = {
    "empty": b"",
    "cut": b'{"parameters": {"kind": "des',
    "not UTF-8": b'{"label": "\xff\xfe"}',
    "not JSON": b"<xml/>",
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep and cut": b'{"parameters":' * DEEP,
    "a number too long": b'{"priority": ' + b"9" * 5000 + b"}",
    "not a number": b'{"parameters":{"kind":"allocate","model":"tiny","budget_gb":NaN}}',
    "infinite": b'{"parameters":{"kind":"allocate","model":"tiny","budget_gb":1e999}}',
    "half a pair": b'{"parameters":{"kind":"describe","model":"tiny"},"label":"\\ud800"}',
    "character 0": b'{"parameters":{"kind":"describe","model":"tiny"},"label":"a\\u0000b"}',
    "a list": b"[]",
    "null": b"null",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans", "/v1/frontier", "/v1/plans/diff"])
def test_malformed_json(api, path, body):
    answer = api("POST", path, content=body, headers=JSON)
    assert answer.status_code in (400, 422), answer.text
    problem(answer, answer.status_code)


@pytest.mark.parametrize("path", ["/v1/tables", "/v1/plans/upload"])
@pytest.mark.parametrize(
    "body", [BROKEN[name] for name in ("empty", "cut", "not UTF-8", "deep lists", "null")], ids=len
)
def test_uploads_that_are_none(api, path, body):
    problem(api("POST", path, content=body), 422)


def test_an_upload_that_is_too_large_is_not_read(api):
    headers = {"Content-Length": str(10 * 10**9)}
    answer = api("POST", "/v1/tables", content=iter([b"{"]), headers=headers)
    problem(answer, 413, "3,000,000 bytes")


def streamed(api, path: str, chunk: bytes) -> tuple[httpx.Response, int]:
    """What is answered to chunks without end, and how many bytes were taken before that."""
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000_000:
            sent += len(chunk)
            yield chunk

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(api.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            headers = {**JSON, "Authorization": f"Bearer {api.secrets['alice']}"}
            return await client.post(path, content=chunks(), headers=headers)

    return asyncio.run(post()), sent


@pytest.mark.parametrize(
    ("path", "most"),
    [("/v1/tables", 3_000_000), ("/v1/plans/upload", 3_000_000), ("/v1/jobs", 4_000_000)],
)
def test_chunks_are_counted_as_they_come(api, path, most):
    answer, sent = streamed(api, path, b" " * 100_000)
    problem(answer, 413, f"{most:,} bytes")
    assert sent <= most + 100_000


def test_a_zip_bomb_is_not_unpacked(api):
    bomb = gzip.compress(b" " * 10_000_000)
    problem(api("POST", "/v1/tables", content=bomb, headers={"Content-Encoding": "gzip"}), 415)
    problem(api("POST", "/v1/tables", content=bomb), 422)


def test_a_table_of_very_many_layers(api):
    row = '{"layer":{"name":"a","kind":"linear","shape":[1,1]},"costs":[{"scheme":"int4"}]}'
    million = '{"version":1,"rows":[' + ",".join([row] * 25_000) + "]}"
    problem(api("POST", "/v1/tables", content=million), 422, "20,000 layers")
    answer, _ = streamed(api, "/v1/tables", (row + ",").encode() * 1000)
    problem(answer, 413)


def test_a_plan_of_very_many_layers(api):
    many = '{"choices":[' + ",".join(['{"scheme":"int4"}'] * 45_000) + "]}"
    problem(api("POST", "/v1/plans/upload", content=many), 422, "20,000 layers")


def test_an_edited_table_and_plan(api, table):
    text = table_of(3).to_json().replace('"rest_bytes": 1000', '"rest_bytes": 999')
    problem(api("POST", "/v1/tables", content=text), 422, "digest does not match")
    plan = api("POST", "/v1/plans", json={"table": table, "budget_gb": 1e-4}).json()["plan"]
    plan["bytes"] = 1
    problem(api("POST", "/v1/plans/upload", json=plan), 422)
    problem(api("POST", "/v1/plans/diff", json={"a": plan, "b": plan}), 422, "digest")


def test_addresses_and_methods_that_are_not_there(api):
    problem(api("GET", "/v1/nothing"), 404)
    problem(api("PUT", "/v1/jobs"), 405)
    problem(api("GET", "/v1/jobs/nope"), 422)
    problem(api("GET", f"/v1/jobs/{'0' * 32}"), 404)
    problem(api("GET", "/v1/jobs?limit=100000"), 422, "limit")
    problem(api("GET", "/../../etc/passwd"), 404)


def test_a_fault_says_nothing_and_is_logged(api, monkeypatch, caplog):
    def fail(*arguments, **keywords):
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(type(api.service.store.jobs), "list", fail)
    answer = api("GET", "/v1/jobs", headers={"X-Request-ID": "mine-1"})
    assert problem(answer, 500)["request_id"] == "mine-1"
    assert "secret" not in answer.text
    assert "the secret of the house" in caplog.text


def test_headers_that_make_browsers_careful(api):
    for path in ("/healthz", "/v1/me", "/v1/nothing"):
        headers = api("GET", path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"].split("style-src")[0]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_an_upload_that_the_disk_has_no_room_for_is_not_the_sender_s_fault(api):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = set(api.service.settings.folder.rglob("*.json"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, hard))
    try:
        response = api("POST", "/v1/tables", content=b"x" * 2_900_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = problem(response, 503, "cannot keep this", "freed some space")
    assert str(api.service.settings.folder) not in told["detail"]
    assert set(api.service.settings.folder.rglob("*.json")) == before

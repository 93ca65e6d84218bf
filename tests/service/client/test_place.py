"""Addresses and tokens, given or from the environment; what the client loads, and what it needs."""

import logging
import subprocess
import sys

import pytest

from bitplan import AsyncClient, Client
from bitplan.errors import InputError
from bitplan.service.client.place import connection
from scripted_service import JOB, Script, a_job, client_of, told


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "server",
    [
        "localhost:8642",
        "ftp://x",
        "http://",
        "http://h:port",
        "http://h/?a=1",
        "http://[",
        "http:/x",
    ],
)
def test_what_is_no_address_is_refused(server, kind):
    with pytest.raises(InputError, match=r"is no address of a service\. Write it as http"):
        kind(server)


def test_addresses_hold_no_password():
    with pytest.raises(InputError, match="Give a token") as caught:
        Client("http://me:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["two words", "two\nlines", "größer", "x\0"])
def test_what_is_no_token_is_refused_and_not_shown(token):
    with pytest.raises(InputError, match="characters that no token has") as caught:
        Client(token=token)
    assert token not in str(caught.value)


def test_address_and_token_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("BITPLAN_SERVER", "https://service.test/bitplan/")
    monkeypatch.setenv("BITPLAN_TOKEN", "bpl_secret\n")
    script = Script(told(a_job()))
    import httpx

    with Client(transport=httpx.MockTransport(script)) as client:
        assert client.job(JOB) == a_job()
        assert repr(client) == "Client('https://service.test/bitplan')"
    (request,) = script.requests
    assert str(request.url) == f"https://service.test/bitplan/v1/jobs/{JOB}"
    assert request.headers["authorization"] == "Bearer bpl_secret"


def test_what_is_given_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("BITPLAN_SERVER", "https://elsewhere.test")
    monkeypatch.setenv("BITPLAN_TOKEN", "bpl_other")
    script = Script(told(a_job()))
    client_of("waiting", script, token="bpl_mine").job(JOB)
    assert script.requests[0].url.host == "service.test"
    assert script.requests[0].headers["authorization"] == "Bearer bpl_mine"
    client_of("waiting", script, token="").job(JOB)  # none, whatever the environment says
    assert "authorization" not in script.requests[1].headers


@pytest.mark.parametrize(
    ("server", "through_proxies", "warns"),
    [
        ("http://127.0.0.1:8642", False, False),
        ("http://localhost", False, False),
        ("http://[::1]:1", False, False),
        ("https://host", True, False),
        ("http://host", True, True),
    ],
)
def test_proxies_are_for_elsewhere_and_clear_text_is_warned_of(
    server, through_proxies, warns, caplog
):
    with caplog.at_level(logging.WARNING):
        arguments = connection(server, "bpl_secret", 1)
    assert arguments["trust_env"] is through_proxies
    assert ("clear text" in caplog.text) is warns
    assert "bpl_secret" not in caplog.text


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_client_loads_no_model_code():
    code = """
import sys, bitplan, bitplan.service.client
with bitplan.Client() as client:
    heavy = {"torch", "transformers", "numpy", "fastapi", "sqlalchemy", "pydantic_settings"}
    print(*sorted(heavy & set(sys.modules)), "httpx" in sys.modules)
"""
    assert python(code) == "True"


def test_without_the_extra_it_says_what_to_install():
    code = """
import sys
sys.modules["httpx"] = None
from bitplan import AsyncClient, BitplanError, Client
for kind in (Client, AsyncClient):
    try:
        kind()
    except BitplanError as error:
        print(error)
"""
    said = "The client needs httpx, which is not installed. Run: pip install 'bitplan[service]'"
    assert python(code).splitlines() == [said, said]

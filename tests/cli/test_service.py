"""`bitplan serve, worker, token`: what they print, and what they refuse."""

import builtins
import json

import pytest
from typer.testing import CliRunner

from bitplan.cli.app import app
from bitplan.errors import InputError

run = CliRunner()


def test_a_token_is_made_listed_and_revoked(tmp_path):
    where = ["--folder", str(tmp_path / "s"), "--json"]
    made = run.invoke(app, ["token", "create", "ci", "--scope", "submit", "--days", "30", *where])
    content = json.loads(made.stdout)
    assert content["secret"].startswith("bpl_")
    assert content["token"]["name"] == "ci"
    assert content["token"]["expires_at"]
    listed = run.invoke(app, ["token", "list", *where])
    assert content["secret"] not in listed.stdout
    assert json.loads(listed.stdout) == [content["token"]]
    revoked = run.invoke(app, ["token", "revoke", content["token"]["id"], *where])
    assert json.loads(revoked.stdout)["revoked_at"]
    told = run.invoke(app, ["token", "create", "people", *where[:2]])
    assert "shown this once" in told.stdout
    assert "people" in run.invoke(app, ["token", "list", *where[:2]]).stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["token", "create", "x", "--scope", "all"], "no scope 'all'"),
        (["token", "create", "x", "--days", "0"], "more than 0"),
        (["token", "create", "\n"], "printable"),
        (["token", "revoke", "nope"], "There is no token nope"),
        (["serve", "--port", "99999"], "setting port"),
        (["serve", "--log-format", "xml"], "setting log_format"),
    ],
)
def test_what_is_refused(tmp_path, arguments, says):
    found = run.invoke(app, [*arguments, "--folder", str(tmp_path / "s")])
    assert isinstance(found.exception, InputError)
    assert says in str(found.exception)


@pytest.mark.parametrize("verb", [["serve"], ["worker"], ["token", "list"]])
def test_who_lacks_the_extra_is_told(monkeypatch, verb):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("bitplan.service") or name == "pydantic_settings":
            raise ModuleNotFoundError("no", name="uvicorn")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    found = run.invoke(app, verb)
    assert isinstance(found.exception, InputError)
    assert "pip install 'bitplan[service]'" in str(found.exception)

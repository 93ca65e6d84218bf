"""The page's files: nothing from elsewhere, nothing inline."""

import re

import pytest

pytest.importorskip("fastapi", reason="the page comes with the extra `service`")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from bitplan.service.page import add_page
from bitplan.service.page.assets import assets, version
from bitplan.service.page.page import modules_of

PATHS = ("/", "/jobs/0", "/login")


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    add_page(app)
    return TestClient(app)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_shell_names_is_there(client, path):
    shell = client.get(path)
    assert shell.status_code == 200
    named = re.findall(r'(?:src|href)="(/static/[^"]+)"', shell.text)
    assert len(named) > 4
    for address in named:
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize("path", PATHS)
def test_a_shell_has_no_script_and_no_handler_of_its_own(client, path):
    text = client.get(path).text
    assert not re.search(r"<script(?![^>]* src=)", text)
    assert not re.search(r"\son[a-z]+=", text)
    assert "style=" not in text


@pytest.mark.parametrize("name", [name for name in assets() if not name.startswith("plotly")])
def test_no_file_reaches_elsewhere(name):
    text = assets()[name].content.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|\beval\(|innerHTML|new Function", text)


@pytest.mark.parametrize("name", ["jobs.js", "job.js", "login.js"])
def test_every_module_is_found_and_imported_by_a_page(name):
    for module in modules_of(name):
        assert module in assets()


def test_no_module_is_left_over():
    used = {each for name in ("jobs.js", "job.js", "login.js") for each in modules_of(name)}
    assert used == {name for name in assets() if name.endswith(".js")} - {"plotly.min.js"}


def test_a_file_is_compressed_where_the_browser_takes_that(client):
    address = f"/static/{version()}/plotly.min.js"
    packed = client.get(address, headers={"Accept-Encoding": "gzip"})
    plain = client.get(address, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content  # the client unpacks
    assert int(packed.headers["content-length"]) < len(plain.content) / 2


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "..%2F..%2Fsettings.py"])
def test_what_is_no_file_of_the_page_is_not_found(client, name):
    assert client.get(f"/static/{version()}/{name}").status_code == 404

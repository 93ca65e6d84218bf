"""The real app on a port of its own, and the browser that is installed."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the page is driven through playwright")
pytest.importorskip("fastapi", reason="the page comes with the extra `service`")

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from bitplan.service.http import make_app
from bitplan.service.page import add_page
from bitplan.service.records import Scope
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
from bitplan.service.work import Queue, Worker
from costs import table_of
from made import Maker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW_MS = 60_000
"""Tests wait for what they need and not for a time; a machine that does much else takes longer."""


expect.set_options(timeout=SLOW_MS)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running server."""

    url: str
    store: Store
    settings: ServiceSettings
    secret: str
    """Of a token that may submit."""


@contextmanager
def serving(folder: Path, **more: Any) -> Iterator[Site]:
    """A server whose state and models are in a folder."""
    models = folder / "models"
    models.mkdir()
    settings = ServiceSettings(
        folder=folder / "state", port=0, token_required=True, model_folders=(models,), **more
    )
    store = Store.open(settings)
    app = make_app(settings, store, Queue.open(settings).send)
    add_page(app)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    _, secret = store.tokens.create("ana", Scope.SUBMIT)
    yield Site(url=f"http://127.0.0.1:{port}", store=store, settings=settings, secret=secret)
    server.should_exit = True
    thread.join()
    store.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One that no worker works for: what its jobs do is what a test has them do."""
    with serving(tmp_path_factory.mktemp("service")) as site:
        yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if "BITPLAN_BROWSER_TESTS" not in os.environ:
        # playwright keeps an event loop, in which other tests of the same process cannot run.
        pytest.skip(
            "tests in a browser run alone: BITPLAN_BROWSER_TESTS=1 pytest tests/service/page"
        )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def maker(site: Site) -> Maker:
    """Makes jobs as a worker would, without one."""
    return Maker(site.store, owner="ana")


@pytest.fixture(scope="session")
def planned(maker: Maker) -> str:
    """Id of a job that made a plan, its table and its report."""
    return maker.planned(table_of(blocks=4), share=0.3)


@pytest.fixture(scope="session")
def shared(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A signed-in browser that keeps the page's files, as people's browsers do."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 900})
    context.add_cookies([_cookie(site)])
    yield context
    context.close()


@pytest.fixture
def visit(browser: Browser, shared: BrowserContext, site: Site) -> Iterator[Callable[..., Page]]:
    """Open a path in a browser of its own, signed in unless it is said otherwise.

    Whatever its console complains of fails the test: a script that the policy stops, say.
    """
    contexts: list[BrowserContext] = []
    pages: list[Page] = []
    complaints: list[str] = []

    def open_page(path: str, *, signed_in: bool = True, **more: Any) -> Page:
        context = shared
        if more or not signed_in:
            context = browser.new_context(base_url=site.url, **more)
            contexts.append(context)
            if signed_in:
                context.add_cookies([_cookie(site)])
        context.set_default_timeout(SLOW_MS)
        page = context.new_page()
        pages.append(page)
        page.on("console", lambda message: _note(message, complaints))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path, timeout=SLOW_MS)
        return page

    yield open_page
    for opened in (*pages, *contexts):
        opened.close()
    assert not complaints


def _cookie(site: Site) -> Any:
    return {"name": "bitplan_token", "value": site.secret, "url": site.url}


def _note(message: Any, complaints: list[str]) -> None:
    # A request that is refused on purpose is shown on the page, and on the console too.
    is_refusal = message.text.startswith("Failed to load resource")
    if message.type in ("error", "warning") and not is_refusal:
        complaints.append(message.text)


def save_model(folder: Path) -> Path:
    """A tiny model, as transformers saves it."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved_model(site: Site) -> Path:
    """A model in a folder that the server allows."""
    return save_model(site.settings.model_folders[0] / "tiny")


@pytest.fixture
def worked(tmp_path: Path) -> Iterator[tuple[Site, Path]]:
    """A server with a worker, and a model that it allows."""
    with serving(tmp_path, lease_s=6) as site:
        folder = save_model(site.settings.model_folders[0] / "tiny")
        worker = Worker(site.settings, site.store, Queue.open(site.settings))
        thread = threading.Thread(target=worker.run)
        thread.start()
        yield site, folder
        worker.stop()
        thread.join()

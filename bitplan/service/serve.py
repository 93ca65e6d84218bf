"""One command for a machine: the web server, and a worker process that is started anew if it dies.

The worker ends with the server, whatever ends that: it reads from a pipe that the server holds.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from bitplan.errors import InputError
from bitplan.service.http import make_app
from bitplan.service.http.hosts import is_loopback
from bitplan.service.http.protocol import Protocol
from bitplan.service.logs import set_up_logs
from bitplan.service.page import add_page
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
from bitplan.service.supervisor import Supervisor
from bitplan.service.work import Queue

log = logging.getLogger(__name__)

DRAIN_S = 3
"""Requests have so long to end when the server is to stop."""


def serve(settings: ServiceSettings, *, announce: Callable[[dict[str, str]], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        settings: of web and workers.
        announce: is told where the server is, and what else its owner should know, by keys.

    Raises:
        InputError: a port that is taken, a database or folder that cannot be used.
    """
    set_up_logs(settings.log_format, settings.log_level)
    listening = _listen(settings)
    store = Store.open(settings)
    app = make_app(settings, store, Queue.open(settings).send)
    add_page(app)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        http=Protocol,
        timeout_graceful_shutdown=DRAIN_S,
    )
    # uvicorn raises again what it was stopped by, which must not skip what is to be cleaned up.
    before = signal.signal(signal.SIGTERM, _leave)
    supervisor = Supervisor(settings) if settings.workers else None
    try:
        if supervisor is not None:
            supervisor.start()
        announce(_news(app.state.service.token_required, settings, store, listening))
        asyncio.run(uvicorn.Server(config).serve([listening]))
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code:
            raise
    finally:
        if supervisor is not None:
            supervisor.stop()
        listening.close()
        store.close()
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _listen(settings: ServiceSettings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Stop what does, or "
            "choose another with --host and --port."
        ) from error
    listening.set_inheritable(True)
    return listening


def _news(
    token_required: bool, settings: ServiceSettings, store: Store, listening: socket.socket
) -> dict[str, str]:
    port = listening.getsockname()[1]
    host = settings.host if settings.host not in ("0.0.0.0", "::", "") else socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    news = {"url": f"http://{host}:{port}"}
    if token_required and not any(one.revoked_at is None for one in store.tokens.list()):
        where = f" --folder {settings.folder}" if "folder" in settings.model_fields_set else ""
        where = f" --database-url {_DATABASE}" if settings.database_url else where
        news["token"] = (
            "Requests need a token, and there is none yet. Make one: "
            f"bitplan token create NAME --scope admin{where}"
        )
    elif not token_required and not is_loopback(settings.host):
        news["warning"] = "No token is needed, on an address that others can reach."
    if not (settings.model_folders or settings.organisations or settings.demo):
        news["models"] = (
            "No model may be used yet. Name folders with --models, or add --demo or --organisation."
        )
    given = (*settings.model_folders, *settings.text_folders)
    if missing := [str(folder) for folder in given if not folder.is_dir()]:
        news["folders"] = (
            f"There is no folder {', '.join(missing)}. Make it, or check --models and --texts."
        )
    return news


_DATABASE = "$BITPLAN_SERVICE_DATABASE_URL"

"""Where a service is and with which token it is asked: what was given, or the environment."""

import importlib
import importlib.metadata
import ipaddress
import logging
import os
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from bitplan.errors import InputError

logger = logging.getLogger(__name__)

SERVER_VARIABLE, TOKEN_VARIABLE = "BITPLAN_SERVER", "BITPLAN_TOKEN"
DEFAULT_SERVER = "http://127.0.0.1:8642"
SILENCE_S = 45.0
"""A stream with no sign of life for so long is dead: the service gives one every 15 s."""


def transport_module() -> ModuleType:
    """What talks HTTP. Raises `InputError` where httpx is not installed."""
    try:
        return importlib.import_module("bitplan.service.client.transport")
    except ModuleNotFoundError as error:
        raise InputError(
            f"The client needs {error.name}, which is not installed. "
            "Run: pip install 'bitplan[service]'"
        ) from None


def server_of(given: str | None) -> str:
    """The service's address, without a slash at its end. Raises `InputError` for no address."""
    server = (given or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER).strip().rstrip("/")
    try:
        parts = urlsplit(server)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        parts, is_address = urlsplit(""), False
    if not is_address or parts.query or parts.fragment or not server.isprintable():
        raise InputError(
            f"{server!r} is no address of a service. Write it as http://host:8642 or "
            "https://host/path."
        )
    if parts.username or parts.password:
        raise InputError(
            "The service's address holds a name or password. Give a token in their place: "
            f"token=, --token-file or {TOKEN_VARIABLE}."
        )
    return server


def token_of(given: str | None) -> str | None:
    """The token, which no message shows. Raises `InputError` where it cannot be one."""
    token = (os.environ.get(TOKEN_VARIABLE) if given is None else given) or None
    token = token.strip() if token else None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(
            "The token has characters that no token has: spaces, new lines or others. Give the "
            "one line that bitplan token create printed."
        )
    return token


def connection(server: str, token: str | None, timeout_s: float) -> dict[str, Any]:
    """Arguments of httpx's clients."""
    headers = {"user-agent": f"bitplan/{importlib.metadata.version('bitplan')}"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    is_here = _is_loopback(urlsplit(server).hostname or "")
    if token and not is_here and server.startswith("http:"):
        logger.warning("The token goes to %s as clear text. Use https where others listen.", server)
    return {
        "base_url": server,
        "headers": headers,
        "timeout": timeout_s,
        # A proxy for the world outside does not reach this machine.
        "trust_env": not is_here,
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

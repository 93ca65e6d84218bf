"""Logs for machines: a JSON object a line, with the ids of request and job. No secrets."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from bitplan.service.context import job_id, request_id

SECRET = re.compile(r"bpl_[\w-]+")
"""Tokens as they are made; a log has none, whoever writes it."""

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class Context(logging.Filter):
    """Gives each record the ids of the request and the job in whose course it is written."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never holds a record back."""
        for name, value in (("request_id", request_id()), ("job", job_id())):
            if value and not hasattr(record, name):
                setattr(record, name, value)
        return True


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what was given as `extra` are fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(content, default=str))


class TextFormatter(logging.Formatter):
    """A record for people, with the ids at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines where there is a traceback."""
        ids = [
            f"{name}={vars(record)[name]}" for name in ("request_id", "job") if name in vars(record)
        ]
        text = super().format(record)
        return without_secrets(f"{text} [{' '.join(ids)}]" if ids else text)


def without_secrets(text: str) -> str:
    """The text with whatever looks like a token blotted out."""
    return SECRET.sub("bpl_***", text)


def set_up_logs(log_format: str, level: str = "INFO") -> None:
    """Send this process's logs to standard error, in JSON or text, at a level and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Context())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "alembic", "sqlalchemy.engine", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

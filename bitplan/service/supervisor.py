"""Keeps a worker process running beside the web server."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

from bitplan.service.settings import ServiceSettings

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A worker that lived so long is started again without much of a pause."""

STOP_S = 10.0
"""Between asking a worker to stop and killing it; what it did is kept either way."""


class Supervisor:
    """Starts a worker process, and another after it died, at growing intervals."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._environment = {**os.environ, **environment(settings)}
        self._command = [sys.executable, "-m", "bitplan.cli", "worker", "--with-stdin"]
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the first one."""
        self._thread.start()

    def stop(self) -> None:
        """End the worker and start no other."""
        self._is_stopping.set()
        self._thread.join(STOP_S + 5)

    def _watch(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_stopping.is_set():
            start = time.monotonic()
            # A group of its own: Ctrl-C is for the server, which then stops the worker once.
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
            code = self._wait(process)
            if self._is_stopping.is_set():
                return
            if time.monotonic() - start > STEADY_S:
                pause_s = FIRST_PAUSE_S
            log.error("The worker process ended (code %s); another in %.1f s", code, pause_s)
            self._is_stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait for its end; when all is to stop, see to that."""
        while process.poll() is None and not self._is_stopping.wait(0.2):
            pass
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                log.warning("The worker process did not stop; it is killed")
                process.kill()
        assert process.stdin is not None
        process.stdin.close()
        return process.wait()


def environment(settings: ServiceSettings) -> Mapping[str, str]:
    """The settings as the variables that they are read from."""
    prefix = settings.model_config.get("env_prefix", "")
    content = settings.model_dump(mode="json", exclude_none=True)
    return {
        f"{prefix}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in content.items()
    }

"""The command line, to be stopped and started again."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVER = """
import os, sys
import torch, transformers, bitplan.cli, bitplan.pipeline, bitplan.report, bitplan.evaluate
from transformers import LlamaForCausalLM, MixtralForCausalLM
from ortools.sat.python import cp_model

torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        sys.argv = ["bitplan", *line.split()]
        try:
            bitplan.cli.main()
        except SystemExit as stop:
            os._exit(stop.code or 0)  # at once: to wind up takes longer than all the work here
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""The command line in a fresh process for every line that is read; imports are done once."""


class CommandLine:
    """Starts `bitplan` with arguments; may send it a signal after a while, or at some event."""

    def __init__(self, folder: Path) -> None:
        self.errors = folder / "stderr"
        errors = self.errors.open("a")
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        )
        errors.close()
        assert self._read() == "ready", self.errors.read_text()

    def _read(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()

    def __call__(
        self,
        *arguments: str,
        after_s: float | None = None,
        when: Callable[[], bool] | None = None,
        kill: int = 0,
    ) -> int:
        assert self.server.stdin is not None
        self.server.stdin.write(" ".join(arguments) + "\n")
        self.server.stdin.flush()
        child = int(self._read())
        with contextlib.suppress(ProcessLookupError):  # it was done before
            if when is not None:
                while not when():
                    os.kill(child, 0)
                    time.sleep(0.002)
            if after_s is not None:
                time.sleep(after_s)
            if when is not None or after_s is not None:
                os.kill(child, kill)
        return int(self._read())

    def close(self) -> None:
        self.server.kill()
        self.server.communicate()


@pytest.fixture
def command_lines(tmp_path) -> Iterator[Callable[[], CommandLine]]:
    """Starts as many as a test needs."""
    with contextlib.ExitStack() as stack:

        def start() -> CommandLine:
            line = CommandLine(tmp_path)
            stack.callback(line.close)
            return line

        yield start


@pytest.fixture
def command_line(command_lines) -> CommandLine:
    """One."""
    return command_lines()

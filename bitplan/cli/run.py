"""The process around a command: logging, signals, errors and exit codes."""

import logging
import os
import signal
import sys
from types import FrameType

from rich.console import Console
from rich.logging import RichHandler

from bitplan.cli.app import app
from bitplan.cli.follow import INTERRUPTED, Detached
from bitplan.errors import BitplanError, InputError


def main() -> None:
    """Run the command line; exit code 0, 2 for bad input, 1 for a fault, 130 when interrupted."""
    # Threads that spin while they wait make a busy machine many times slower. torch reads this when
    # it is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    # It has a handler of its own, and would be heard twice.
    handler.addFilter(lambda record: not record.name.startswith("huggingface_hub"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    err = Console(stderr=True)
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        app(prog_name="bitplan")
    except BaseException as error:
        # Not all that an interrupt passes through lets it pass: Typer makes an exit of it, and
        # libraries in C now and then an error of their own. A search that is interrupted gives the
        # best plan so far, and the command ends as it should.
        if isinstance(error, Detached):
            raise
        if interrupts and not (isinstance(error, SystemExit) and error.code in (0, None)):
            # A second one, while all is put away, ends the process without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            err.print("Stopped. What was done is kept: the same command goes on from there.")
            sys.exit(INTERRUPTED)
        if not isinstance(error, BitplanError):
            raise
        err.print("[bold red]Error:[/]", end=" ")
        # One line, whatever the message quotes.
        err.print(" ".join(str(error).split()), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 1)

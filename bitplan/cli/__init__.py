"""The command line: parse, call the pipeline, print. One verb a stage."""

import sys


def main() -> None:
    """Run the command line, also when it is interrupted before all of its modules are there."""
    try:
        from bitplan.cli.run import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)  # 128 and the signal's number
    run()

"""`python -m bitplan.service.work`: a worker by the settings of the environment."""

import argparse
import logging

from bitplan.service.settings import ServiceSettings
from bitplan.service.work.worker import run_worker

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bitplan.service.work", description=__doc__)
    parser.add_argument(
        "--with-stdin", action="store_true", help="Stop when standard input ends, too."
    )
    arguments = parser.parse_args()
    settings = ServiceSettings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(name)s %(message)s")
    run_worker(settings, until_stdin_ends=arguments.with_stdin)

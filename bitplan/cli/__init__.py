"""The command line: parse, call the pipeline, print. One verb a stage."""

from bitplan.cli.app import app as app
from bitplan.cli.run import main as main

"""`python -m bitplan.cli`."""

from bitplan.cli import main

main()

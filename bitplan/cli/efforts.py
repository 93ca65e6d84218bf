"""`bitplan efforts`: what each effort does."""

import json
from dataclasses import asdict

from bitplan.cli.options import AsJson
from bitplan.cli.show import show


def efforts(as_json: AsJson = False) -> None:
    """List the efforts that measure, allocate and apply can be asked for, and what each does."""
    from bitplan.effort import EFFORTS
    from bitplan.report import efforts_table

    known = [{"name": name, **asdict(effort)} for name, effort in EFFORTS.items()]
    show(json.dumps(known, indent=2), as_json, lambda: [efforts_table(EFFORTS)])

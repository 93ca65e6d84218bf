"""`bitplan presets`: which published methods there are."""

import json

from bitplan.cli.options import AsJson
from bitplan.cli.show import show


def presets(as_json: AsJson = False) -> None:
    """List the published methods that solve and allocate can take in place of a solver."""
    from bitplan.allocator import PRESETS
    from bitplan.report import presets_table

    known = [preset.to_dict() for preset in PRESETS.values()]
    show(json.dumps(known, indent=2), as_json, lambda: [presets_table(PRESETS.values())])

"""What may follow each `+` of a scheme's name, in this order."""

import re
from typing import TypeAlias

from bitplan.errors import SchemeError
from bitplan.schema import channels, low_rank, salient, sparsity
from bitplan.schema.channels import Channels
from bitplan.schema.low_rank import LowRank
from bitplan.schema.salient import Salient
from bitplan.schema.sparsity import Sparsity

Change: TypeAlias = Sparsity | Channels | Salient | LowRank

CHANGES: dict[str, tuple[str, type[Change]]] = {
    "sparsity": (sparsity.PATTERN, Sparsity),
    "channels": (channels.PATTERN, Channels),
    "salient": (salient.PATTERN, Salient),
    "low_rank": (low_rank.PATTERN, LowRank),
}
"""By their field of a scheme: the pattern of their names, as ECMA-262 and Python read it."""


def read_change(name: str) -> tuple[str, Change]:
    """The change of a name, and its field of a scheme. Raises `SchemeError` where there is none.

    >>> read_change("r16")
    ('low_rank', LowRank(rank=16))
    """
    for field, (pattern, kind) in CHANGES.items():
        if re.fullmatch(pattern, name):
            return field, kind.parse(name)
    if ":" in name:
        return "sparsity", Sparsity.parse(name)  # which says what is wrong with it
    raise SchemeError(
        f"{name!r} is no sparsity, share of columns left out, share of salient columns or low-rank "
        f"term. {sparsity.KNOWN} {channels.KNOWN} {salient.KNOWN} {low_rank.KNOWN}"
    )

"""What a plan must keep to, from JSON to the library's own."""

from bitplan.allocator import Constraints, bits_of
from bitplan.service.parameters import Constrained


def constraints_of(given: Constrained) -> Constraints:
    """The library's constraints. Raises `InputError`."""
    return Constraints(
        pins=given.pins,
        floors={layer: bits_of(bits) for layer, bits in given.floors.items()},
        ceilings={layer: bits_of(bits) for layer, bits in given.ceilings.items()},
        ties=given.ties,
        fuse=given.fuse,
        most_schemes=given.most_schemes,
        runtime=given.runtime,
    )

"""Constraints as a plan records them, and back."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from bitplan.allocator.bit_range import Bits
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.latencies import Latencies
from bitplan.allocator.resource import AbstractResource
from bitplan.allocator.resources import RESOURCES, AverageBits
from bitplan.allocator.time_limits import Seconds
from bitplan.errors import PlanError
from bitplan.schema import Kept, KeptLimit, Plan, Scheme

LIMITS: Mapping[str, type[AbstractResource]] = {
    each.__name__: each for each in (AverageBits, *RESOURCES.values(), Seconds)
}
"""By the names that plans record."""


def kept(constraints: Constraints | None) -> Kept | None:
    """What a plan records of constraints; None where there are none, or one has no record.

    What is left out the plan says itself.
    """
    if constraints is None or replace(constraints, left_out=None) == Constraints():
        return None
    if not all(type(limit) in LIMITS.values() for limit in constraints.limits):
        return None
    return Kept(
        pins={
            layer: (str(given),) if isinstance(given, str | Scheme) else tuple(map(str, given))
            for layer, given in constraints.pins.items()
        },
        floors=_named(constraints.floors),
        ceilings=_named(constraints.ceilings),
        ties=tuple((tie,) if isinstance(tie, str) else tuple(tie) for tie in constraints.ties),
        fuse=constraints.fuse,
        most_schemes=constraints.most_schemes,
        runtime=constraints.runtime,
        limits=tuple(
            KeptLimit(resource=type(limit).__name__, most=limit.most, options=_options(limit))
            for limit in constraints.limits
        ),
    )


def recorded_constraints(plan: Plan) -> Constraints:
    """The constraints that a plan was made under, as it records them; none where it has none.

    Raises `PlanError` for a limit that is not known here.
    """
    had = plan.constraints
    if had is None:
        return Constraints()
    return Constraints(
        pins=dict(had.pins),
        floors=dict(had.floors),
        ceilings=dict(had.ceilings),
        ties=had.ties,
        fuse=had.fuse,
        most_schemes=had.most_schemes,
        runtime=had.runtime,
        limits=tuple(map(_limit, had.limits)),
    )


def _named(bits: Mapping[str, Bits]) -> dict[str, str | int | float]:
    return {layer: str(one) if isinstance(one, Scheme) else one for layer, one in bits.items()}


def _options(limit: AbstractResource) -> dict[str, Any]:
    """All but the most, of what is not as by default."""
    options = {}
    for field in fields(limit):
        value = getattr(limit, field.name)
        if field.name == "most" or value == field.default:
            continue
        options[field.name] = (
            value.model_dump(mode="json") if isinstance(value, Latencies) else value
        )
    return options


def _limit(limit: KeptLimit) -> AbstractResource:
    if limit.resource not in LIMITS:
        raise PlanError(
            f"The plan was made under a limit on {limit.resource}, which this bitplan does not "
            "know. Update bitplan, or give the constraints yourself."
        )
    options = dict(limit.options)
    if "latencies" in options:
        options["latencies"] = Latencies.model_validate(options["latencies"])
    return LIMITS[limit.resource](most=limit.most, **options)

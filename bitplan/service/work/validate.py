"""What a job asks for, as the library's functions take it; checked without loading a model."""

from typing import TYPE_CHECKING, Any

from bitplan.errors import InputError
from bitplan.schema import Scheme
from bitplan.service.parameters import Allocate, Constrained, Measure, Parameters
from bitplan.service.records import JobRequest
from bitplan.service.settings import ServiceSettings
from bitplan.service.work.limits import check_limits

if TYPE_CHECKING:
    from bitplan.allocator import Constraints

DEMO = "demo"
"""The model's name that stands for the demo's model and text."""


def check(request: JobRequest, settings: ServiceSettings) -> None:
    """Refuse what would otherwise be refused when a worker takes it up. Raises `InputError`.

    Whether paths and hub ids are allowed is not looked at here. Imports torch when first called.
    """
    check_limits(request.limits, settings)
    parameters = request.parameters
    if parameters.model == DEMO and not settings.demo:
        raise InputError(
            f'This service has no model "{DEMO}". Name another, or start it with --demo.'
        )
    if isinstance(parameters, Measure):
        _check_engine(parameters.engine, settings.ray_address)
        check_arguments(parameters)


def check_arguments(parameters: Parameters) -> None:
    """What the library itself refuses before it loads anything."""
    from bitplan.pipeline import Settings

    if isinstance(parameters, Measure):
        Settings(**arguments(parameters))


def arguments(parameters: Measure, **more: Any) -> dict[str, Any]:
    """Of `bitplan.pipeline.measure` or `allocate`; more: workdir and what else the worker knows."""
    from bitplan.calibration import Sizes

    names = [*_MEASURING]
    if isinstance(parameters, Allocate):
        names += _ALLOCATING
        more["constraints"] = constraints_of(parameters.constraints)
    given = {name: getattr(parameters, name) for name in names}
    given["sizes"] = Sizes(
        calibration=parameters.sequences,
        search=parameters.search_sequences,
        held_out=parameters.held_out_sequences,
        length=parameters.length,
    )
    return given | more


def constraints_of(given: Constrained) -> "Constraints":
    """The library's constraints. Raises `InputError`."""
    from bitplan.allocator import Constraints

    return Constraints(
        pins=given.pins,
        floors={layer: _bits(bits) for layer, bits in given.floors.items()},
        ceilings={layer: _bits(bits) for layer, bits in given.ceilings.items()},
        ties=given.ties,
        fuse=given.fuse,
        most_schemes=given.most_schemes,
        runtime=given.runtime,
    )


def _bits(text: str | float) -> Scheme | float:
    try:
        return float(text)
    except ValueError:
        return Scheme.parse(str(text))


def _check_engine(engine: str, ray_address: str | None) -> None:
    """Workers connect to no address but the one that the service's owner named."""
    if engine in ("auto", "serial", "processes") or (engine and engine == ray_address):
        return
    known = ["auto", "serial", "processes", *([ray_address] if ray_address else [])]
    raise InputError(
        f"The engine {engine!r} is not one of this service's: {', '.join(known)}. Choose one of "
        "them; a Ray cluster is named by BITPLAN_SERVICE_RAY_ADDRESS."
    )


_MEASURING = (
    "schemes",
    "measured",
    "calibration",
    "temperature",
    "time_limit_s",
    "estimator",
    "quantizer",
    "through",
    "seed",
    "dtype",
    "context",
    "batch",
    "cache_schemes",
    "engine",
    "workers",
)
_ALLOCATING = ("solver", "preset", "refine_tokens", "search", "verify")

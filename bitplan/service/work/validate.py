"""What a job asks for, checked without loading a model, and as the library's functions take it."""

import os
from typing import Any

from bitplan.allocator import check_preset, check_search, check_solver
from bitplan.effort import get_effort
from bitplan.errors import InputError
from bitplan.names import (
    check_dtype,
    check_estimator,
    check_experts,
    check_pass,
    check_quantizer,
    check_transform,
)
from bitplan.schema import Scheme
from bitplan.service.constraints import constraints_of
from bitplan.service.parameters import Allocate, Apply, Measure
from bitplan.service.records import JobRequest
from bitplan.service.settings import ServiceSettings
from bitplan.service.work.limits import check_limits


def check(request: JobRequest, settings: ServiceSettings) -> None:
    """Refuse what this service does not give, and names that there are not. Raises `InputError`.

    Whether paths and hub ids are allowed is `Policy`'s. Imports no torch.
    """
    check_limits(request.limits, settings)
    parameters = request.parameters
    if isinstance(parameters, Measure | Apply):
        get_effort(parameters.effort)
    if not isinstance(parameters, Apply):
        check_dtype(parameters.dtype)
    if not isinstance(parameters, Measure):
        return
    _check_engine(parameters, settings.ray_address)
    _check_names(parameters)
    for names in (parameters.schemes, parameters.measured, parameters.cache_schemes):
        for name in names or ():
            Scheme.parse(name)
    if isinstance(parameters, Allocate):
        constraints_of(parameters.constraints)
        check_solver(parameters.solver)
        check_preset(parameters.preset, parameters.solver)
        check_search(parameters.search)


def _check_names(parameters: Measure) -> None:
    check_estimator(parameters.estimator)
    if parameters.quantizer is not None:
        check_quantizer(parameters.quantizer)
    check_transform(parameters.transform)
    check_experts(parameters.experts)
    check_pass(parameters.through)


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


def _check_engine(parameters: Measure, ray_address: str | None) -> None:
    """No address but the one that the service's owner named; no more processes than processors."""
    engine, most = parameters.engine, os.cpu_count() or 1
    known = ["auto", "serial", "processes", *([ray_address] if ray_address else [])]
    if engine not in known:
        raise InputError(
            f"The engine {engine!r} is not one of this service's: {', '.join(known)}. Choose one "
            "of them; a Ray cluster is named by BITPLAN_SERVICE_RAY_ADDRESS."
        )
    if engine != ray_address and (parameters.workers or 0) > most:
        raise InputError(
            f"{parameters.workers} workers were asked for; the server has {most} processors. Ask "
            "for no more, or leave it out."
        )


_MEASURING = (
    "schemes",
    "measured",
    "calibration",
    "temperature",
    "time_limit_s",
    "estimator",
    "effort",
    "quantizer",
    "transform",
    "experts",
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

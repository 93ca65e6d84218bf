"""What a job may ask for: models, text and plans that its owner may use, within the limits."""

import os

from bitplan.service.http.problems import ProblemError
from bitplan.service.parameters import Apply, Measure
from bitplan.service.policy import Policy
from bitplan.service.records import JobRequest, Limits
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Artefacts


def checked(
    request: JobRequest,
    *,
    policy: Policy,
    settings: ServiceSettings,
    artefacts: Artefacts,
    owner: str | None,
) -> JobRequest:
    """The request with real paths in place of what was named.

    Raises `NotAllowed` and `ProblemError` for what the server does not allow.
    """
    if "\\u0000" in request.model_dump_json():
        raise ProblemError(422, "A text holds the character 0. Leave it out.")
    _check_limits(request.limits, settings)
    parameters = request.parameters
    changes: dict[str, object] = {"model": policy.model(parameters.model)}
    calibration = getattr(parameters, "calibration", None)
    if calibration is not None:
        changes["calibration"] = policy.text(calibration)
    if isinstance(parameters, Apply) and (
        artefacts.find(parameters.plan, name="plan.json", owner=owner) is None
    ):
        raise ProblemError(
            422, f"There is no plan {parameters.plan}. Upload it first, or name another."
        )
    if isinstance(parameters, Measure):
        _check_engine(parameters, settings)
    return request.model_copy(update={"parameters": parameters.model_copy(update=changes)})


def _check_limits(limits: Limits, settings: ServiceSettings) -> None:
    for name, asked, most in (
        ("time_s", limits.time_s, settings.time_limit_s),
        ("memory_gb", limits.memory_gb, settings.memory_limit_gb),
        ("disk_gb", limits.disk_gb, settings.disk_limit_gb),
    ):
        if asked is not None and most is not None and asked > most:
            raise ProblemError(
                422, f"limits.{name} is {asked:g}, but the server allows {most:g}. Ask for less."
            )


def _check_engine(parameters: Measure, settings: ServiceSettings) -> None:
    """No address but the one that the server is set to, and no more processes than processors."""
    engine = parameters.engine
    if engine != settings.ray_address and (
        "/" in engine or ":" in engine or (engine == "ray" and settings.ray_address is None)
    ):
        raise ProblemError(
            422,
            "The server is not set to use that cluster. Leave engine out, or ask whoever runs the "
            "server to set BITPLAN_SERVICE_RAY_ADDRESS.",
        )
    most = os.cpu_count() or 1
    if "ray" not in engine and (parameters.workers or 0) > most:
        raise ProblemError(
            422, f"{parameters.workers} workers were asked for; the server has {most} processors."
        )

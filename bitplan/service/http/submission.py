"""What a job may ask for: models, text and plans that its owner may use, within the limits."""

from bitplan.service.http.problems import ProblemError
from bitplan.service.parameters import Apply
from bitplan.service.policy import Policy
from bitplan.service.records import JobRequest
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Artefacts
from bitplan.service.work import check


def checked(
    request: JobRequest,
    *,
    policy: Policy,
    settings: ServiceSettings,
    artefacts: Artefacts,
    owner: str | None,
) -> JobRequest:
    """The request with real paths in place of what was named.

    Raises `InputError` and `ProblemError` for what the server does not allow.
    """
    if "\\u0000" in request.model_dump_json():
        raise ProblemError(422, "A text holds the character 0. Leave it out.")
    check(request, settings)
    parameters = policy.named(request.parameters)
    if isinstance(parameters, Apply) and (
        artefacts.find(parameters.plan, name="plan.json", owner=owner) is None
    ):
        raise ProblemError(
            422, f"There is no plan {parameters.plan}. Upload it first, or name another."
        )
    return request.model_copy(update={"parameters": parameters})

"""The OpenAPI description: problems for all errors, and how tokens are sent."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from bitplan.service.http.caller import COOKIE
from bitplan.service.http.problems import MEDIA_TYPE, Problem

DESCRIPTION = (
    "Submit a model and a memory budget as a job, watch it work, get a mixed-precision plan and "
    "the compressed model. Errors are problem+json (RFC 9457); quote their `request_id`. Sizes in "
    "GB are of 10^9 bytes, losses are KL to the reference model in nats per token."
)
OPEN = frozenset({"/healthz", "/readyz", "/metrics", "/v1/session"})
"""Addresses that need no token."""


def describe_app(app: FastAPI) -> None:
    """Give an app its description, which is made when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _schema(app)
        return app.openapi_schema

    app.openapi = openapi


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
    )
    parts = schema.setdefault("components", {})
    shapes = parts.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    shapes |= problem.pop("$defs", {})
    shapes["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        shapes.pop(unused, None)
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "bitplan token create"},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    }
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            responses = operation["responses"]
            responses.pop("422", None)
            responses["default"] = {
                "description": "What is wrong, and what to do",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
            if path not in OPEN:
                operation["security"] = [{"token": []}, {"session": []}]
    return schema

"""What tests of tables and plans begin with."""

from torch import nn

from bitplan.footprint import legal_schemes, scheme_bytes
from bitplan.models import describe, model_digest
from bitplan.schema import Choice, Plan, Provenance

MENU = ("int4g32", "int3", "int8s", "bf16", "int2g32s", "int5g32", "fp32")
PROVENANCE = Provenance(
    model="tiny",
    model_digest="m",
    dtype="bfloat16",
    calibration="text",
    calibration_digest="c",
    calibration_tokens=64,
    estimator="given",
    quantizer="rtn",
    seed=0,
    versions={"bitplan": "0"},
)


def plan_for(model: nn.Module, menu: tuple[str, ...] = MENU) -> Plan:
    """Each layer the next scheme of the menu that it may take."""
    seen = describe(model)
    choices = []
    for turn, stored in enumerate(seen.layers):
        legal = legal_schemes(stored.layer, stored.dtype, menu)
        scheme = legal[turn % len(legal)]
        size = scheme_bytes(stored.layer.shape, scheme)
        choices.append(Choice(layer=stored.layer, scheme=scheme, bytes=size, loss=0.0))
    total = seen.rest_bytes + sum(choice.bytes for choice in choices)
    digest = model_digest(model, [choice.layer for choice in choices])
    return Plan(
        provenance=PROVENANCE.model_copy(update={"model_digest": digest, "dtype": seen.dtype}),
        budget_bytes=total,
        bytes=total,
        rest_bytes=seen.rest_bytes,
        predicted_kl=0.0,
        lower_bound=0.0,
        gap=0.0,
        status="tried",
        solver="turns",
        choices=tuple(choices),
    )

"""`bitplan describe`: a model to a list of its layers."""

from bitplan.cli.options import AsJson, Batch, Context, Dtype, Experts, Model
from bitplan.cli.show import show
from bitplan.console import Bars
from bitplan.errors import InputError
from bitplan.names import TOGETHER, check_dtype, check_experts
from bitplan.place import check_source


def describe(
    model: Model,
    context: Context = 0,
    batch: Batch = 1,
    dtype: Dtype = "auto",
    experts: Experts = TOGETHER,
    as_json: AsJson = False,
) -> None:
    """List a model's layers: kinds, shapes, bytes, ties, and what stays in full precision.

    Of a folder that apply wrote: its plan.
    """
    # What is seen to be wrong is refused before torch is imported, which takes seconds.
    check_source(model)
    check_dtype(dtype)
    check_experts(experts)
    from bitplan.export import is_packed, load_plan
    from bitplan.models import describe, load_outline
    from bitplan.report import description_table, evidence_table, plan_table

    if is_packed(model):
        if context:
            raise InputError("The cache of a compressed model is its plan's. Leave --context out.")
        plan = load_plan(model)
        show(plan.to_json(), as_json, lambda: [plan_table(plan), evidence_table(plan)])
        return
    with Bars(hidden=as_json) as bars:
        bars("load", 0, 1)
        outline = load_outline(model, dtype=dtype)
        description = describe(outline, context=context, batch=batch, experts=experts)
        bars("load", 1, 1)
    show(description.model_dump_json(indent=2), as_json, lambda: [description_table(description)])

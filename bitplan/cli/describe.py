"""`bitplan describe`: a model to a list of its layers."""

from bitplan.cli.options import AsJson, Batch, Context, Dtype, Model
from bitplan.cli.show import show
from bitplan.console import Bars
from bitplan.errors import InputError
from bitplan.names import check_dtype
from bitplan.place import check_source


def describe(
    model: Model,
    context: Context = 0,
    batch: Batch = 1,
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """List a model's layers: kinds, shapes, bytes, ties, and what stays in full precision.

    Of a folder that apply wrote: its plan.
    """
    # What is seen to be wrong is refused before torch is imported, which takes seconds.
    check_source(model)
    check_dtype(dtype)
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
        description = describe(load_outline(model, dtype=dtype), context=context, batch=batch)
        bars("load", 1, 1)
    show(description.model_dump_json(indent=2), as_json, lambda: [description_table(description)])

"""`bitplan describe`: a model to a list of its layers."""

from bitplan.cli.options import AsJson, Batch, Context, Dtype, Model
from bitplan.cli.show import show
from bitplan.console import Bars


def describe(
    model: Model,
    context: Context = 0,
    batch: Batch = 1,
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """List a model's layers: kinds, shapes, bytes, ties, and what stays in full precision."""
    from bitplan.models import describe, load_model
    from bitplan.report import description_table

    with Bars(hidden=as_json) as bars:
        bars("load", 0, 1)
        description = describe(load_model(model, dtype=dtype), context=context, batch=batch)
        bars("load", 1, 1)
    show(description.model_dump_json(indent=2), as_json, lambda: [description_table(description)])

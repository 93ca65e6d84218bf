"""`bitplan measure`: a model to a cost table."""

from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.options import (
    AsJson,
    Batch,
    CacheSchemes,
    Calibration,
    Context,
    Dtype,
    Engine,
    Estimator,
    Length,
    Measured,
    Model,
    Quantizer,
    Schemes,
    Seed,
    Sequences,
    Temperature,
    Through,
    TimeLimit,
    Workdir,
    Workers,
    names_of,
    sources_of,
)
from bitplan.cli.show import show
from bitplan.console import Bars
from bitplan.files import check_writable


def measure(
    model: Model,
    file: Annotated[Path, typer.Option("--out", help="Where the cost table goes.")] = Path(
        "costs.json"
    ),
    calibration: Calibration = None,
    schemes: Schemes = None,
    measured: Measured = None,
    temperature: Temperature = 1.0,
    sequences: Sequences = None,
    length: Length = None,
    time_limit: TimeLimit = None,
    estimator: Estimator = "gradient_covariance",
    quantizer: Quantizer = "gptq",
    through: Through = "auto",
    context: Context = 0,
    batch: Batch = 1,
    cache_schemes: CacheSchemes = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    engine: Engine = "auto",
    workers: Workers = None,
    workdir: Workdir = None,
    as_json: AsJson = False,
) -> None:
    """Measure what every layer would lose in every scheme: a cost table, solved in milliseconds."""
    from bitplan.calibration import Sizes
    from bitplan.pipeline import measure
    from bitplan.report import costs_table

    check_writable(file)
    with Bars(hidden=as_json) as bars:
        table = measure(
            model,
            calibration=sources_of(calibration),
            temperature=temperature,
            schemes=names_of(schemes),
            measured=names_of(measured),
            sizes=Sizes(calibration=sequences, length=length),
            time_limit_s=time_limit,
            estimator=estimator,
            quantizer=quantizer,
            through=through,
            context=context,
            batch=batch,
            cache_schemes=names_of(cache_schemes),
            seed=seed,
            dtype=dtype,
            engine=engine,
            workers=workers,
            workdir=workdir,
            progress=bars,
        )
    table.save(file)
    show(table.to_json(), as_json, lambda: [costs_table(table), f"The cost table is in {file}."])

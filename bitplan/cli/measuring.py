"""Options that say how a model is measured: what measure and allocate share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bitplan.cli.options import Batch, Context, Dtype, Effort, Experts, Seed, Verbose, Workdir
from bitplan.effort import get_effort
from bitplan.names import (
    TOGETHER,
    check_dtype,
    check_estimator,
    check_experts,
    check_pass,
    check_quantizer,
    check_transform,
)
from bitplan.place import check_text, check_weight, split_weight
from bitplan.schema import Scheme


@dataclass(frozen=True, kw_only=True)
class MenuOptions:
    """The group of those that say what is measured, and on which text."""

    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH[:WEIGHT]",
            help="A text, JSONL or .safetensors file, or a folder of data sets; several with "
            "weights.",
            show_default="text sampled from the model",
        ),
    ] = None
    schemes: Annotated[
        str | None,
        typer.Option(
            help="Menu, as int3g64,int4g64,bf16.", show_default="2 to 8 bits and the dtype"
        ),
    ] = None
    measured: Annotated[
        str | None,
        typer.Option(
            help="Of the menu, what is measured; a law predicts the rest.", show_default="all"
        ),
    ] = None

    def check(self) -> None:
        """Refuse what can be seen to be wrong without torch. Raises `InputError`."""
        check_sources(self.calibration)
        check_schemes(self.schemes, self.measured)

    def settings(self) -> dict[str, Any]:
        """What they say, by the names of `bitplan.pipeline.Settings`."""
        return {
            "calibration": sources_of(self.calibration),
            "schemes": names_of(self.schemes),
            "measured": names_of(self.measured),
        }


@dataclass(frozen=True, kw_only=True)
class EffortOptions:
    """The group of those that say how thoroughly."""

    temperature: Annotated[float, typer.Option(help="At which text is sampled from the model.")] = (
        1.0
    )
    sequences: Annotated[
        int | None,
        typer.Option(
            min=1, help="Sequences to calibrate on.", show_default="32, or by the time limit"
        ),
    ] = None
    length: Annotated[
        int | None,
        typer.Option(
            min=2, help="Tokens in a sequence.", show_default="256, less if the model reads less"
        ),
    ] = None
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="For measuring: chooses how many sequences to calibrate on, from 4 to 512.",
        ),
    ] = None
    estimator: Annotated[
        str,
        typer.Option(
            help="auto (the best that disk, memory and time allow: -v says why), "
            "gradient_covariance, fisher_diagonal, weight_error, output_fisher, single_swaps (the "
            "slow truth), or another of bitplan.sensitivity.ESTIMATORS."
        ),
    ] = "auto"
    effort: Effort = "standard"
    quantizer: Annotated[
        str | None,
        typer.Option(
            help="gptq, quantease, signround, discquant, clip; hqq or rtn, which read no text; "
            "admm or icbs (gptq with sparse weights solved first) or dsnot (clip, better masks).",
            show_default="the effort's",
        ),
    ] = None
    transform: Annotated[
        str,
        typer.Option(
            help="Folded into the weights first, outputs unchanged: none, awq (channels scaled), "
            "hadamard (rotated) or omniquant (scales and shifts learned)."
        ),
    ] = "none"
    experts: Experts = TOGETHER
    through: Annotated[
        str,
        typer.Option(
            help="whole (model at once), blocks (one in memory at a time), or auto: by the memory "
            "here."
        ),
    ] = "auto"

    def check(self) -> None:
        """Refuse what can be seen to be wrong without torch. Raises `InputError`."""
        get_effort(self.effort)
        if self.quantizer is not None:
            check_quantizer(self.quantizer)
        check_estimator(self.estimator)
        check_transform(self.transform)
        check_experts(self.experts)
        check_pass(self.through)

    def settings(self) -> dict[str, Any]:
        """What they say, by the names of `bitplan.pipeline.Settings`."""
        from bitplan.calibration import Sizes

        return {
            "temperature": self.temperature,
            "sizes": Sizes(calibration=self.sequences, length=self.length),
            "time_limit_s": self.time_limit,
            "estimator": self.estimator,
            "effort": self.effort,
            "quantizer": self.quantizer,
            "transform": self.transform,
            "experts": self.experts,
            "through": self.through,
        }


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """The group of those that say for which cache, from which seed, and where the work is done."""

    context: Context = 0
    batch: Batch = 1
    cache_schemes: Annotated[
        str | None,
        typer.Option(help="The cache's menu.", show_default="2, 4 and 8 bits and the dtype"),
    ] = None
    seed: Seed = 0
    dtype: Dtype = "auto"
    engine: Annotated[
        str, typer.Option(help="auto, serial, processes, ray, or a Ray cluster as ray://host:port.")
    ] = "auto"
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes, or tasks on a cluster at a time.", show_default="one a core"
        ),
    ] = None
    workdir: Workdir = None
    store_gb: Annotated[
        float | None,
        typer.Option(
            help="Gigabytes (10^9) that compressed weights in the work folder may take.",
            show_default="no limit",
        ),
    ] = None
    verbose: Verbose = False

    def check(self) -> None:
        """Refuse what can be seen to be wrong without torch. Raises `InputError`."""
        check_schemes(self.cache_schemes)
        check_dtype(self.dtype)

    def settings(self) -> dict[str, Any]:
        """What they say, by the names of `bitplan.pipeline.Settings`."""
        return {
            "context": self.context,
            "batch": self.batch,
            "cache_schemes": names_of(self.cache_schemes),
            "seed": self.seed,
            "dtype": self.dtype,
            "engine": self.engine,
            "workers": self.workers,
            "workdir": self.workdir,
            "store_gb": self.store_gb,
        }


def names_of(menu: str | None) -> list[str] | None:
    """The schemes of a menu that commas separate."""
    return None if menu is None else [name.strip() for name in menu.split(",") if name.strip()]


def check_schemes(*menus: str | None) -> None:
    """Raise `SchemeError` for what is no scheme in menus that commas separate."""
    for menu in menus:
        for name in names_of(menu) or ():
            Scheme.parse(name)


def check_sources(calibration: list[str] | None) -> None:
    """Raise `CalibrationError` for `PATH[:WEIGHT]`s that are not there, or weigh nothing."""
    for text in calibration or ():
        path, weight = split_weight(text)
        if weight is not None:
            check_weight(Path(path).name, weight)
        check_text(path)


def sources_of(calibration: list[str] | None) -> Any:
    """Calibration sources of `PATH[:WEIGHT]`s."""
    from bitplan.calibration import parse_source

    return [parse_source(text) for text in calibration] if calibration else None

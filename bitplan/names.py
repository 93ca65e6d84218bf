"""Names that a caller may give, checked without torch, whose import takes seconds."""

from collections.abc import Iterable

from bitplan.errors import InputError, ModelError

QUANTIZERS = (
    "gptq",
    "quantease",
    "signround",
    "discquant",
    "admm",
    "icbs",
    "clip",
    "dsnot",
    "hqq",
    "rtn",
)
"""Those of `bitplan.compress.QUANTIZERS`, which a test holds to be the same."""

NONE, AWQ, HADAMARD, OMNIQUANT = "none", "awq", "hadamard", "omniquant"

TRANSFORMS = (NONE, AWQ, HADAMARD, OMNIQUANT)

ESTIMATORS = (
    "auto",
    "gradient_covariance",
    "grouped_gradient_covariance",
    "fisher_diagonal",
    "fisher_sampled",
    "kronecker_fisher",
    "output_error",
    "outlier_ratio",
    "weight_outliers",
    "weight_error",
    "sqnr",
    "output_fisher",
    "kl_fisher",
    "operating_point",
    "hessian_trace",
    "block_influence",
    "single_swaps",
)
"""`auto`, and those of `bitplan.sensitivity.ESTIMATORS`: a test holds them to be the same, too."""

PASSES = ("auto", "whole", "blocks")
"""`auto` chooses by memory; `whole` runs the whole model at once, `blocks` block by block."""

TOGETHER, EACH = "together", "each"

EXPERTS = (TOGETHER, EACH)
"""Of a mixture that keeps its experts in one tensor: one scheme for all of them, or one each."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
"""To load files in."""


def check_quantizer(name: str) -> None:
    """Raise `InputError`, with those there are, unless there is a quantizer of this name."""
    _check("quantizer", name, QUANTIZERS)


def check_transform(name: str) -> None:
    """Raise `InputError`, with those there are, unless there is a transform of this name."""
    _check("transform", name, TRANSFORMS)


def check_estimator(name: str) -> None:
    """Raise `InputError` for a name that is neither `auto` nor an estimator's."""
    _check("estimator", name, ESTIMATORS)


def check_pass(name: str) -> None:
    """Raise `InputError` for a name that is none of `PASSES`."""
    if name not in PASSES:
        raise InputError(
            f"There is no way through a model named {name!r}. Choose one of: {', '.join(PASSES)}."
        )


def check_experts(name: str) -> None:
    """Raise `InputError` for a name that is none of `EXPERTS`."""
    if name not in EXPERTS:
        raise InputError(
            f"experts is {name!r}. Choose {TOGETHER} (one scheme for all of a tensor) or {EACH}."
        )


def check_dtype(name: str) -> None:
    """Raise `ModelError` for a name that is none of `DTYPES`."""
    if name not in DTYPES:
        raise ModelError(f"{name!r} is not a dtype to load in. Give one of {', '.join(DTYPES)}.")


def _check(noun: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(f"There is no {noun} {name!r}. Choose one of: {', '.join(known)}.")

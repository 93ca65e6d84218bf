"""What a caller may choose, in one place, with its defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitplan.allocator import Pins, check_solver
from bitplan.calibration import Calibration, Sizes
from bitplan.compress import get_quantizer
from bitplan.errors import CalibrationError, InputError
from bitplan.schema import Scheme
from bitplan.sensitivity import check_pass, get_estimator


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of measuring and allocating.

    Args:
        schemes: names of the schemes to choose from; None: the default menu of the dtype.
        calibration: a text or JSONL file, documents, tokens [sequences, length]; None: text sampled
            from the model itself.
        sizes: sequences to calibrate, search and judge on, and their length.
        estimator: a name of `bitplan.sensitivity.ESTIMATORS`.
        quantizer: a name of `bitplan.compress.QUANTIZERS`.
        through: how calibration goes through the model: "whole", "blocks" (one block in memory at a
            time, hidden states on disk), or "auto" by the memory of the machine.
        seed: of all that is drawn at random.
        workdir: where work is kept; None: bitplan's folder in the user's cache.
        dtype: to load files in; "auto" is bfloat16.
        tokenizer: for text, when the model is a module; else its own is loaded.
        pins: layer name or wildcard -> scheme, or schemes, that it may take.
        fuse: give layers that runtimes fuse (q, k and v; gate and up) one scheme.
        solver: "auto", or a name of `bitplan.allocator.SOLVERS`.
        refine_tokens: tokens that refinement may send through the model; 0 turns it off.
        verify: measure the plan on held-out tokens, beside the uniform plan.
    """

    schemes: Sequence[str | Scheme] | None = None
    calibration: Calibration = None
    sizes: Sizes = field(default_factory=Sizes)
    estimator: str = "gradient_covariance"
    quantizer: str = "gptq"
    through: str = "auto"
    seed: int = 0
    workdir: str | Path | None = None
    dtype: str = "auto"
    tokenizer: Any = None
    pins: Pins | None = None
    fuse: bool = False
    solver: str = "auto"
    refine_tokens: int = 50_000
    verify: bool = True

    def __post_init__(self) -> None:
        """Refuse here what would otherwise be found after hours."""
        get_estimator(self.estimator)
        get_quantizer(self.quantizer)
        check_pass(self.through)
        check_solver(self.solver)
        if self.schemes is not None and not self.schemes:
            raise InputError("The list of schemes is empty. Name some, or leave it out.")
        if isinstance(self.schemes, str):
            raise InputError(f"The schemes are the string {self.schemes!r}. Give a list of names.")
        for scheme in self.schemes or ():
            Scheme.parse(scheme)
        if self.refine_tokens < 0:
            raise InputError(f"refine_tokens is {self.refine_tokens}; it must be 0 or more.")
        if isinstance(self.calibration, str | Path) and not Path(self.calibration).is_file():
            raise CalibrationError(
                f"There is no calibration file {str(self.calibration)!r}. Check the path; to give "
                "text itself, put it into a list."
            )

"""What a caller may choose, in one place, with its defaults."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeAlias

from bitplan.allocator import Constraints, Pins, check_preset, check_search, check_solver
from bitplan.allocator.wildcards import closest
from bitplan.calibration import (
    Calibration,
    Sizes,
    TokenSets,
    check_sources,
    check_temperature,
)
from bitplan.compress import NONE, check_transform, get_quantizer
from bitplan.effort import STANDARD, get_effort
from bitplan.errors import InputError
from bitplan.formats import check_cached
from bitplan.models import Inputs
from bitplan.names import TOGETHER, check_experts
from bitplan.schema import WIDE, Plan, Scheme
from bitplan.sensitivity import AUTO, check_engine, check_estimator, check_pass

Start: TypeAlias = Plan | str | Path | Sequence[Plan | str | Path]
"""A plan or its file, or several."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of measuring and allocating.

    Args:
        schemes: names of the schemes to choose from; None: the default menu of the dtype. With
            "none" among them whole sublayers of attention or feed-forward may be left out.
        measured: of the schemes, those that are measured; the others are predicted from them, layer
            by layer (`bitplan.sensitivity.law`); None: all are measured.
        calibration: a text, JSONL or .safetensors file (its `input_ids`), a folder of data sets,
            documents, tokens [sequences, length]; a list of `Source`, or path -> weight, for
            several; tensors by name, as {"pixel_values": images}, for a model that reads no text;
            None: text sampled from the model itself.
        temperature: at which text is sampled from the model.
        sizes: sequences to calibrate, search and judge on, and their length.
        time_limit_s: how long measuring may take, apart from loading, refinement and verification:
            chooses how many sequences to calibrate on, from 4 to 512; None: as `sizes` says.
        estimator: a name of `bitplan.sensitivity.ESTIMATORS`, or "auto": the best that disk, memory
            and time allow, which `which_estimator` tells with its reason.
        effort: how much work the weights are worth: a name of `bitplan.effort.EFFORTS`, which says
            what is done where quantizer and refine_tokens are None.
        quantizer: a name of `bitplan.compress.QUANTIZERS`; None: the effort's.
        transform: a change of the model that leaves its outputs and is folded into its weights
            before they are rendered: a name of `bitplan.compress.TRANSFORMS`. "awq" scales channels
            by what they carry, "hadamard" rotates them, "omniquant" learns scales and shifts block
            by block.
        experts: where a mixture keeps its experts in one tensor: "together", one scheme for all of
            a tensor's, or "each", a scheme for every expert.
        through: how calibration goes through the model: "whole", "blocks" (one block in memory at a
            time, hidden states on disk), or "auto" by the memory of the machine.
        seed: of all that is drawn at random.
        workdir: where work is kept; None: bitplan's folder in the user's cache.
        store_gb: how much of it compressed weights may take, in gigabytes of 10^9 bytes: those used
            longest ago are removed, and rendered again where they are needed. Estimators that judge
            on the model hold a whole menu, whatever is said here. None: no limit.
        dtype: to load files in; "auto" is bfloat16.
        tokenizer: for text, when the model is a module; else its own is loaded.
        pins: layer name or wildcard -> scheme, or schemes, that it may take.
        fuse: give layers that runtimes fuse (q, k and v; gate and up) one scheme.
        constraints: what else a plan must keep to: floors, ceilings, ties, limits, ...
        solver: "auto", or a name of `bitplan.allocator.SOLVERS`.
        preset: a name of `bitplan.allocator.PRESETS`: a published method that solves the table, and
            with `estimator="auto"` chooses what is measured. Refining goes on from its plan.
        refine_tokens: tokens that refinement may send through the model, a pass forward and back
            counted three times; 0 turns it off, and None takes the effort's.
        search: how it searches: a name of `bitplan.allocator.SEARCHES`.
        start: a plan, or several, or their files, that it begins with beside the solved one.
        verify: measure the plan on held-out tokens, beside the uniform plan.
        context: tokens of each sequence whose keys and values the budget holds too; 0: none.
        batch: sequences whose keys and values it holds.
        cache_schemes: names of the schemes for them; None: 2, 4 and 8 bits, and as they are.
        engine: who renders and judges, and measures plans: "auto", a name of
            `bitplan.sensitivity.ENGINES`, or the address of a Ray cluster, as "ray://host:port".
            Table and plan are the same, byte for byte.
        workers: processes, or tasks on a cluster at a time; None: as many as there are cores. To
            measure plans each has as many threads as torch has here, so that there are fewer: of
            many cores more is had with fewer threads (OMP_NUM_THREADS).
    """

    schemes: Sequence[str | Scheme] | None = None
    measured: Sequence[str | Scheme] | None = None
    calibration: Calibration = None
    temperature: float = 1.0
    sizes: Sizes = field(default_factory=Sizes)
    time_limit_s: float | None = None
    estimator: str = AUTO
    effort: str = STANDARD
    quantizer: str | None = None
    transform: str = NONE
    experts: str = TOGETHER
    through: str = "auto"
    seed: int = 0
    workdir: str | Path | None = None
    store_gb: float | None = None
    dtype: str = "auto"
    tokenizer: Any = None
    pins: Pins | None = None
    fuse: bool = False
    constraints: Constraints | None = None
    solver: str = "auto"
    preset: str | None = None
    refine_tokens: int | None = None
    search: str = "auto"
    start: Start = ()
    verify: bool = True
    context: int = 0
    batch: int = 1
    cache_schemes: Sequence[str | Scheme] | None = None
    engine: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse here what would otherwise be found after hours."""
        check_estimator(self.estimator)
        get_quantizer(self.renders_by)
        check_transform(self.transform)
        check_experts(self.experts)
        check_pass(self.through)
        check_solver(self.solver)
        check_preset(self.preset, self.solver)
        _ = self.all_constraints
        for menu in (self.schemes, self.measured, self.cache_schemes):
            _check_menu(menu)
        for scheme in self.cache_schemes or ():
            check_cached(Scheme.parse(scheme))
        if self.measured is not None:
            _check_predicted(self.schemes or (), self.measured)
        if self.context < 0 or self.batch < 1:
            raise InputError(
                f"The cache is of {self.batch} sequences of {self.context} tokens; it needs a "
                "batch of 1 or more and a context of 1 or more, or of 0 to leave it out."
            )
        check_engine(self.engine, self.workers)
        check_search(self.search)
        _ = self.starts
        if self.refine_tokens is not None and self.refine_tokens < 0:
            raise InputError(f"refine_tokens is {self.refine_tokens}; it must be 0 or more.")
        if self.store_gb is not None and not 0 < self.store_gb < math.inf:
            raise InputError(f"store_gb is {self.store_gb}; it must be a number above zero.")
        check_sources(self.calibration)
        check_temperature(self.temperature)
        if self.time_limit_s is not None:
            self._check_time_limit(self.time_limit_s)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings by their names. Raises `TypeError` for a name that is none, as a call does."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise TypeError(
                    f"There is no setting {name!r}. {closest(name, known)} How many sequences, and "
                    "how long, is said by sizes=bitplan.calibration.Sizes(...)."
                )
        return cls(**given)

    @property
    def all_constraints(self) -> Constraints:
        """Pins and `fuse` among them. Raises `InputError` for a pin given twice."""
        return Constraints.of(self.constraints, pins=self.pins, fuse=self.fuse)

    @property
    def starts(self) -> tuple[Plan, ...]:
        """The plans of `start`. Raises `InputError` for a file that cannot be read."""
        several = [self.start] if isinstance(self.start, Plan | str | Path) else self.start
        return tuple(plan if isinstance(plan, Plan) else Plan.load(plan) for plan in several)

    @property
    def renders_by(self) -> str:
        """The quantizer's name. Raises `InputError` where there is no such effort."""
        effort = get_effort(self.effort)
        return self.quantizer if self.quantizer is not None else effort.quantizer

    def tokens_to_refine(self, tokens: TokenSets) -> int:
        """How many tokens refinement may send through the model."""
        if self.refine_tokens is None:
            return get_effort(self.effort).refine_passes * Inputs.of(tokens.search).tokens
        return self.refine_tokens

    def _check_time_limit(self, limit_s: float) -> None:
        if not 0 < limit_s < math.inf:
            raise InputError(f"The time limit is {limit_s} s; it must be a number above zero.")
        if self.sizes.calibration is not None or isinstance(self.calibration, TokenSets):
            raise InputError(
                "A time limit chooses how many sequences to calibrate on, and that number is "
                "given, too. Leave one of them out."
            )


def _check_menu(menu: Sequence[str | Scheme] | None) -> None:
    if menu is not None and not menu:
        raise InputError("The list of schemes is empty. Name some, or leave it out.")
    if isinstance(menu, str):
        raise InputError(f"The schemes are the string {menu!r}. Give a list of names.")
    for scheme in menu or ():
        Scheme.parse(scheme)


def _check_predicted(menu: Sequence[str | Scheme], measured: Sequence[str | Scheme]) -> None:
    known = set(map(Scheme.parse, measured))
    for scheme in map(Scheme.parse, menu):
        if scheme.is_none:  # measured on the model, whatever else is
            continue
        if not (scheme.is_float or scheme.format in WIDE or scheme in known):
            raise InputError(
                f"{scheme} is to be predicted from other widths, but the law is for "
                f"{' and '.join(WIDE)} schemes. Measure {scheme} itself."
            )

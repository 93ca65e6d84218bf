"""The vocabulary: what crosses a file, a process or HTTP.

Every class here is frozen, refuses unknown fields, and writes the same bytes for the same content.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from bitplan.errors import BudgetError, InputError, PlanError, SchemeError, TableError
from bitplan.files import read_text, write_text

SCHEMA_VERSION = 1
"""Raised when a file written by this version could be misread by an older one."""

FLOAT_BITS = {"bf16": 16, "fp16": 16, "fp32": 32}
INT_BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How one matrix is stored. Its short name round-trips.

    `intBgG` is an asymmetric integer of B bits with a bfloat16 scale and offset for every G
    weights of a row, or for the whole row without `gG`; a final `s` makes it symmetric: no offset.
    `bf16`, `fp16` and `fp32` keep the layer in that floating-point type.

    >>> Scheme.parse("int3g128s").group_size
    128
    >>> str(Scheme.parse("int8"))
    'int8'
    """

    format: Literal["int", "bf16", "fp16", "fp32"]
    bits: int
    group_size: int | None = None
    symmetric: bool = True

    @classmethod
    def parse(cls, name: "str | Scheme") -> "Scheme":
        """The scheme of a short name. Raises `SchemeError` where there is none."""
        if isinstance(name, Scheme):
            return name
        match name:
            case "bf16" | "fp16" | "fp32":
                return cls(format=name, bits=FLOAT_BITS[name])
        match = _INTEGER_NAME.fullmatch(name)
        if match is None or int(match["bits"]) not in INT_BITS:
            raise SchemeError(
                f"{name!r} is not a scheme. Schemes are bf16, fp16, fp32 and int2, int3, int4, "
                "int5, int6, int8 with an optional group (g32, g64, g128; the whole row without) "
                "and an optional s for symmetric, as in int4g64 or int8s."
            )
        group = int(match["group"]) if match["group"] else None
        if group is not None and group not in GROUP_SIZES:
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise SchemeError(
                f"{name!r} has groups of {group} weights; they may be of {sizes}, or of the whole "
                "row when the name has no g."
            )
        symmetric = bool(match["symmetric"])
        return cls(format="int", bits=int(match["bits"]), group_size=group, symmetric=symmetric)

    @property
    def is_float(self) -> bool:
        """Whether the weights stay floating-point numbers."""
        return self.format != "int"

    def __str__(self) -> str:
        if self.is_float:
            return self.format
        group = f"g{self.group_size}" if self.group_size else ""
        return f"int{self.bits}{group}{'s' if self.symmetric else ''}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "pattern": r"^(bf16|fp16|fp32|int[234568](g(32|64|128))?s?)$"}


_INTEGER_NAME = re.compile(r"int(?P<bits>[1-9][0-9]*)(?:g(?P<group>[1-9][0-9]*))?(?P<symmetric>s?)")


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Kind(StrEnum):
    """What a layer does with its weight; `keys` and `values` are what attention caches.

    `conv1d` is what GPT-2 calls a linear; a convolution over time, of speech, is `timeconv`.
    """

    LINEAR = "linear"
    CONV1D = "conv1d"
    CONV2D = "conv2d"
    TIMECONV = "timeconv"
    EMBEDDING = "embedding"
    EXPERTS = "experts"
    KEYS = "keys"
    VALUES = "values"


class Layer(Record):
    """One weight that gets a scheme, or the keys or values that one attention module caches.

    `name` is the path of the module that holds the weight (for experts, of the parameter; for a
    cache, of the attention module, with `.keys` or `.values`). `shape` is [out, in] as a matrix
    product reads it, [experts, out, in] for experts, [vocabulary, hidden] for embeddings and
    [out, in x height x width] for convolutions, whatever way round the model stores it; for a
    cache, [batch x tokens kept, heads x head_dim].
    """

    name: str
    kind: Kind
    shape: tuple[PositiveInt, ...] = Field(min_length=2, max_length=3)
    block: NonNegativeInt | None = Field(default=None, description="index of its block, if any")
    tied: tuple[str, ...] = Field(default=(), description="other modules that share its storage")
    fuse: str | None = Field(default=None, description="layers with one key are fused by runtimes")
    tokens: NonNegativeFloat = Field(default=1.0, description="share of tokens that reach it")

    @property
    def parameters(self) -> int:
        """Number of weights, or of cached numbers."""
        return math.prod(self.shape)

    @property
    def is_cache(self) -> bool:
        """Whether it is cached keys or values, not a weight."""
        return self.kind in (Kind.KEYS, Kind.VALUES)


class Domain(Record):
    """What one source gave to the calibration tokens."""

    name: str = Field(description="of the source, for people")
    documents: PositiveInt = Field(description="in the source, those kept apart to judge included")
    tokens: NonNegativeInt = Field(description="calibration tokens from it")
    share: float = Field(ge=0, le=1, description="of all calibration tokens")
    digest: str = Field(description="sha256 over its calibration tokens")


class Provenance(Record):
    """What made a table or a plan: enough to make it again, and to refuse another model."""

    model: str = Field(description="name of the model, for people")
    model_digest: str = Field(description="sha256 over the layers' weights as bfloat16")
    dtype: str = Field(description="torch dtype of what stays in full precision")
    calibration: str = Field(description="where the calibration tokens came from, for people")
    calibration_digest: str = Field(description="sha256 over the calibration tokens")
    calibration_tokens: NonNegativeInt
    domains: tuple[Domain, ...] = Field(default=(), description="sources of the calibration tokens")
    temperature: PositiveFloat = Field(
        default=1.0, description="at which text was sampled, where it was"
    )
    estimator: str
    quantizer: str
    seed: int
    sizes: dict[str, PositiveInt] = Field(
        default_factory=dict,
        description="most sequences to calibrate, search and judge on, and their length",
    )
    context: NonNegativeInt = Field(
        default=0, description="tokens of each sequence that the cache is counted for; 0: it is not"
    )
    batch: PositiveInt = Field(default=1, description="sequences that the cache is counted for")
    versions: dict[str, str] = Field(description="of bitplan and the packages it computed with")


class Cost(Record):
    """What one scheme does to one layer."""

    scheme: Scheme
    bytes: NonNegativeInt = Field(description="codes, scales, offsets and padding")
    loss: NonNegativeFloat = Field(description="expected increase of KL, nats per token")
    standard_error: NonNegativeFloat = Field(
        description="of the loss, nats per token, by the bootstrap over calibration sequences"
    )
    inseparable: tuple[Scheme, ...] = Field(
        default=(),
        description="schemes of this layer whose loss differs by less than two standard errors",
    )
    predicted: bool = Field(default=False, description="by a law, from widths that were measured")


class Row(Record):
    """One layer and the schemes that it may take."""

    layer: Layer
    costs: tuple[Cost, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [str(cost.scheme) for cost in self.costs]
        if len(set(names)) < len(names):
            raise ValueError(f"layer {self.layer.name} lists a scheme twice")
        return self


class Artefact(Record):
    """A record with a file of its own: versioned, with a digest over its content."""

    version: Literal[1] = SCHEMA_VERSION

    def to_json(self) -> str:
        """The file's text: two-space JSON, keys in order of declaration, a digest at the end."""
        content = self.model_dump(mode="json")
        content["digest"] = _digest(content)
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises `OutputError`."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote. Raises `InputError` of the record's own kind."""
        try:
            text = read_text(path)
        except InputError as error:
            raise cls._error()(str(error)) from error
        try:
            return cls.from_json(text)
        except cls._error() as error:
            raise cls._error()(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text that `to_json` wrote."""
        error, noun = cls._error(), cls.__name__
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as cause:  # ValueError: also a number far too long
            raise error(
                f"This is not the JSON of a {noun} ({cause}); the file may be truncated. "
                "Make it again, or fetch it again."
            ) from None
        if not isinstance(content, dict) or "version" not in content:
            raise error(f"This JSON is not a {noun}: it has no version. Check the file's name.")
        if content["version"] != SCHEMA_VERSION:
            raise error(
                f"This {noun} has schema version {content['version']!r}; this bitplan reads "
                f"version {SCHEMA_VERSION}. Update bitplan, or make the {noun} again."
            )
        digest = content.pop("digest", None)
        if digest != _digest(content):
            raise error(
                f"This {noun} was changed after bitplan wrote it: its digest does not match. "
                "To choose a layer's scheme yourself, solve again with pins."
            )
        try:
            return cls.model_validate(content)
        except (ValidationError, InputError) as cause:
            raise error(f"This is not a {noun} that bitplan can read: {cause}") from None

    @classmethod
    def _error(cls) -> type[InputError]:
        return InputError


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # A file that was edited may hold half of a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class CostTable(Artefact):
    """For every layer and legal scheme: exact bytes and expected loss. Measured once."""

    provenance: Provenance
    rest_bytes: NonNegativeInt = Field(description="all that no scheme touches: norms, biases, ...")
    law_error: NonNegativeFloat | None = Field(
        default=None,
        description="of the law behind predicted losses: root mean square error of their natural "
        "log, told from measured widths that lie between others",
    )
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [row.layer.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError("a layer has two rows")
        return self

    @classmethod
    def _error(cls) -> type[InputError]:
        return TableError


class Choice(Record):
    """The scheme that a plan gives to one layer."""

    layer: Layer
    scheme: Scheme
    bytes: NonNegativeInt
    loss: NonNegativeFloat = Field(description="predicted increase of KL, nats per token")


class Measured(Record):
    """KL to the reference model on tokens that neither calibration nor search has seen."""

    name: str = Field(description="what was measured: plan, solved, refined, uniform int4g64, ...")
    bytes: NonNegativeInt
    kl: float = Field(description="KL(reference || compressed), nats per token")
    standard_error: NonNegativeFloat = Field(description="of kl over sequences")
    perplexity: NonNegativeFloat | None = Field(description="null: no next token is predicted")


class Evidence(Record):
    """The plan beside the uniform plan, measured on the same held-out tokens."""

    tokens: PositiveInt
    tokens_digest: str
    reference_perplexity: NonNegativeFloat | None
    plan: Measured
    uniform: Measured | None = Field(description="the best uniform plan that fits, if one does")
    others: tuple[Measured, ...] = Field(default=(), description="what else was tried")


class Plan(Artefact):
    """Layer by layer, the scheme to store it in. No timestamps: same inputs, same bytes."""

    provenance: Provenance
    budget_bytes: PositiveInt
    bytes: NonNegativeInt = Field(description="of the whole model, and its cache if it is counted")
    rest_bytes: NonNegativeInt = Field(description="all that no scheme touches: norms, biases, ...")
    predicted_kl: NonNegativeFloat = Field(description="sum of the choices' losses")
    lower_bound: float = Field(description="no plan of the table can predict less")
    gap: NonNegativeFloat = Field(description="(predicted_kl - lower_bound) / predicted_kl")
    status: str = Field(description="what the solver says of its answer")
    solver: str
    evidence: Evidence | None = Field(default=None, description="None: not measured")
    choices: tuple[Choice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.rest_bytes + sum(choice.bytes for choice in self.choices)
        if total != self.bytes:
            raise ValueError(f"its layers add up to {total:,} bytes, but it says {self.bytes:,}")
        return self

    @property
    def schemes(self) -> dict[str, Scheme]:
        """Scheme by layer name."""
        return {choice.layer.name: choice.scheme for choice in self.choices}

    @property
    def cache_bytes(self) -> int:
        """Of the keys and values of `provenance.batch` sequences of `provenance.context` tokens."""
        return sum(choice.bytes for choice in self.choices if choice.layer.is_cache)

    @property
    def weight_bytes(self) -> int:
        """Of the applied model's parameters and buffers: all but the cache."""
        return self.bytes - self.cache_bytes

    @classmethod
    def _error(cls) -> type[InputError]:
        return PlanError


class Budget(Record):
    """How many bytes the whole model may take: give exactly one of `gb` and `bytes`.

    1 GB is 10^9 bytes. Raises `BudgetError` for zero, negative, infinite or NaN.

    >>> Budget(gb=4.5).total_bytes
    4500000000
    """

    gb: float | None = None
    bytes: int | None = None

    def __init__(self, *, gb: float | None = None, bytes: int | None = None) -> None:
        if (gb is None) == (bytes is None):
            raise BudgetError("A budget needs either gb or bytes. Give one: Budget(gb=4.5).")
        amount, unit = (gb, "GB") if bytes is None else (bytes, "bytes")
        if not (isinstance(amount, int | float) and math.isfinite(amount) and amount > 0):
            raise BudgetError(f"The budget is {amount!r} {unit}; it must be a number above zero.")
        values: dict[str, Any] = {"gb": gb, "bytes": bytes}
        super().__init__(**values)

    @property
    def total_bytes(self) -> int:
        """The budget in bytes, rounded down."""
        if self.bytes is not None:
            return self.bytes
        assert self.gb is not None
        return math.floor(round(self.gb * 1e9, 3))

    @classmethod
    def of(cls, budget: "Budget | float") -> "Budget":
        """A budget from a budget or a number of gigabytes."""
        return budget if isinstance(budget, Budget) else cls(gb=budget)


def json_schema(artefact: type[Artefact]) -> str:
    """The JSON Schema of a file, generated from its class."""
    schema = artefact.model_json_schema(mode="serialization")
    schema["properties"]["digest"] = {
        "type": "string",
        "description": "sha256 over the content without this field: keys sorted, no white space",
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"

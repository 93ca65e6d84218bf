"""How one matrix is stored."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from bitplan.errors import SchemeError

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

"""How one matrix is stored."""

import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from bitplan.errors import SchemeError
from bitplan.schema.changes import CHANGES, read_change
from bitplan.schema.channels import Channels
from bitplan.schema.family import FAMILIES, WIDE, Family
from bitplan.schema.low_rank import LowRank
from bitplan.schema.salient import Salient
from bitplan.schema.sparsity import Sparsity

FLOAT_BITS = {"bf16": 16, "fp16": 16, "fp32": 32}
LEFT_OUT = "none"
"""The format of a matrix that is not stored, and stands for zeros."""
GROUP_SIZES = (16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How one matrix is stored. Its short name round-trips.

    `bf16`, `fp16` and `fp32` keep the layer in that floating-point type. All others are codes with
    a scale for every G weights of a row, or for the whole row without `gG`:

    - `intBgG`: integers of B bits with an offset beside the scale; an `s` makes them symmetric: no
      offset;
    - `sign` and `ternary`: -1 and 1; -1, 0 and 1, five in a byte;
    - `binary2` and `ternary2`: a sum of two planes, of 0 and 1, or of -1, 0 and 1, each with a
      scale of its own;
    - `fp8`, `fp6`, `fp4`: floating-point codes e4m3, e2m3 and e2m1; `fp8e5m2`, `fp6e3m2`;
    - `nf4`, `nf3`: quantiles of the normal distribution;
    - `bitmod4`, `bitmod3`: of four lists of floating-point values the one that suits the group;
    - `bfpB`: B-bit integers, the scale a power of two (block floating point);
    - `mxfp8`, `mxfp6`, `mxfp4`, `mxfp8e5m2`, `mxfp6e3m2`: floating-point codes, a power of two for
      every 32 weights; `nvfp4`: e2m1, an e4m3 scale for every 16 and one float32 a matrix.

    `none` stores nothing: the matrix is all zeros. It is for whole sublayers of attention or
    feed-forward, see `bitplan.models.sublayers`.

    A final `d` after a group says that bfloat16 scales and offsets become bytes, of which every 256
    of a row share a step (double quantization). What follows each `+`, in this order, changes a
    coded scheme: a `Sparsity`, whose zeros take no code; a share of `Channels`, columns that are
    left out; a share of `Salient` columns that are kept at a higher precision; and a `LowRank` term
    that is added. `bits` are those of a code, as it is
    packed; `symmetric` says that there is no offset.

    >>> Scheme.parse("int3g128s").group_size
    128
    >>> Scheme.parse("int4g64+2:4").sparsity
    Sparsity(kept=2, block=4, percent=None)
    >>> Scheme.parse("int3g64+2%int8+r16").salient
    Salient(percent=2, format='int8')
    >>> str(Scheme.parse("fp8"))
    'fp8'
    """

    format: str
    bits: float
    group_size: int | None = None
    symmetric: bool = True
    double: bool = False
    sparsity: Sparsity | None = None
    channels: Channels | None = None
    salient: Salient | None = None
    low_rank: LowRank | None = None

    @classmethod
    def parse(cls, name: "str | Scheme") -> "Scheme":
        """The scheme of a short name. Raises `SchemeError` where there is none."""
        if isinstance(name, Scheme):
            return name
        plain, *changes = name.split("+")
        scheme = cls._plain(plain)
        for change in changes:
            scheme = scheme._with(change)
        if changes and str(scheme) != name:
            raise SchemeError(f"{name!r} has its parts in another order. Write {scheme}.")
        return scheme

    @classmethod
    def _plain(cls, name: str) -> "Scheme":
        if name in FLOAT_BITS:
            return cls(format=name, bits=FLOAT_BITS[name])
        if name == LEFT_OUT:
            return cls(format=name, bits=0)
        match = _NAME.fullmatch(name)
        if match is None:
            raise SchemeError(f"{name!r} is not a scheme. {_known()}")
        stem, size, symmetric = match["stem"], match["group"], bool(match["symmetric"])
        family = FAMILIES[stem]
        if symmetric and not family.offset:
            raise SchemeError(f"{name!r} ends on s, but {stem} has no offset to do without.")
        if size and family.group_size:
            raise SchemeError(
                f"{name!r} names a group, but that of {stem} is always {family.group_size} "
                f"weights: write {stem}."
            )
        if match["double"] and not (size and family.can_double):
            needed = "a group" if family.can_double else "scales in bfloat16"
            raise SchemeError(
                f"{name!r} ends on d, for scales that are codes themselves, but it has not "
                f"{needed}. Write int4g64d, nf4g64d or the like."
            )
        group = int(size) if size else family.group_size
        if size and group not in GROUP_SIZES:
            raise SchemeError(
                f"{name!r} has groups of {group} weights; they may be of "
                f"{', '.join(map(str, GROUP_SIZES))}, or of the whole row when the name has no g."
            )
        bits = int(family.bits) if family.bits % 1 == 0 else family.bits
        wide = next((format for format in WIDE if stem == f"{format}{bits}"), None)
        return cls(
            format=wide or stem,
            bits=bits,
            group_size=group,
            symmetric=symmetric or not family.offset,
            double=bool(match["double"]),
        )

    def _with(self, change: str) -> "Scheme":
        """The scheme with what follows one `+`."""
        if self.is_float or self.is_none:
            what = "stores no weights" if self.is_none else "keeps all weights as they are"
            raise SchemeError(
                f"{self}+{change}: what follows a + changes how codes are stored; {self} {what}. "
                f"Write int8g64+{change}, or the like."
            )
        field, value = read_change(change)
        if getattr(self, field) is not None:
            raise SchemeError(
                f"{self}+{change} has {getattr(self, field)} and {change}. Leave one of them out."
            )
        return replace(self, **{field: value})

    @property
    def base(self) -> "Scheme":
        """Without columns left out, salient columns and a low-rank term."""
        return replace(self, channels=None, salient=None, low_rank=None)

    @property
    def is_composed(self) -> bool:
        """Whether a matrix is stored as several, or a narrower one: see `bitplan.schema.parts`."""
        return any((self.channels, self.salient, self.low_rank))

    @property
    def is_float(self) -> bool:
        """Whether the weights stay what they are, numbers of a floating-point type."""
        return self.format in FLOAT_BITS

    @property
    def is_none(self) -> bool:
        """Whether nothing is stored, and all weights are zero."""
        return self.format == LEFT_OUT

    @property
    def is_integer(self) -> bool:
        """Whether the weights are evenly spaced codes with a scale and maybe an offset."""
        return self.format == "int"

    @property
    def stem(self) -> str:
        """The name without group, `s` and `d`."""
        return f"{self.format}{self.bits}" if self.format in WIDE else self.format

    @property
    def family(self) -> Family:
        """What is stored. Raises `SchemeError` for a scheme that has no codes."""
        if self.is_none:
            raise SchemeError(f"{self} stores nothing: it has neither codes nor scales.")
        if self.is_float:
            raise SchemeError(f"{self} keeps a matrix as it is: it has neither codes nor scales.")
        return FAMILIES[self.stem]

    def __str__(self) -> str:
        if self.is_float or self.is_none:
            return self.format
        free = self.group_size and self.family.group_size is None
        group = f"g{self.group_size}" if free else ""
        symmetric = "s" if self.symmetric and self.family.offset else ""
        changes = (getattr(self, field) for field in CHANGES)
        # As torch.compile can trace it, which knows no generator that is joined here.
        added = "".join(["+" + str(change) for change in changes if change])
        return f"{self.stem}{group}{symmetric}{'d' if self.double else ''}{added}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "pattern": _pattern()}


def scheme_names() -> tuple[str, ...]:
    """The names of all schemes that keep a matrix, without what may follow a `+`."""
    coded = []
    for stem, family in FAMILIES.items():
        groups = [f"g{size}" for size in GROUP_SIZES] if family.group_size is None else []
        for group in ("", *groups):
            symmetries = ("", "s") if family.offset else ("",)
            doubles = ("", "d") if group and family.can_double else ("",)
            coded += ["".join((stem, group, s, d)) for s in symmetries for d in doubles]
    return (*coded, *FLOAT_BITS)


def file_name(scheme: Scheme) -> str:
    """A scheme's name as part of a file's: some systems have no colons there."""
    return str(scheme).replace(":", "of")


def _pattern() -> str:
    """Of names, as ECMA-262 and Python read it."""
    group = f"g({'|'.join(map(str, GROUP_SIZES))})"
    tails: dict[str, list[str]] = {}
    for stem, family in FAMILIES.items():
        symmetric = "s?" if family.offset else ""
        tail = f"({group}{symmetric}{'d?' if family.can_double else ''})?"
        if family.offset:
            tail = f"({tail}|s)"
        tails.setdefault("" if family.group_size else tail, []).append(stem)
    coded = (f"({'|'.join(stems)}){tail}" for tail, stems in tails.items())
    changes = "".join(f"([+]{pattern})?" for pattern, _ in CHANGES.values())
    return f"^({LEFT_OUT}|{'|'.join(FLOAT_BITS)}|({'|'.join(coded)}){changes})$"


def _known() -> str:
    free = [s for s, family in FAMILIES.items() if not (family.offset or family.group_size)]
    fixed = [s for s, family in FAMILIES.items() if family.group_size]
    integers = [s for s, family in FAMILIES.items() if family.offset]
    sizes = ", ".join(f"g{size}" for size in GROUP_SIZES)
    return (
        f"Schemes are {', '.join(FLOAT_BITS)}; {', '.join((*integers, *free))}, each with an "
        f"optional group ({sizes}; the whole row without), the int ones with an optional s for "
        f"symmetric, as in int4g64, int8s or nf4g64; and {', '.join(fixed)}, whose groups are "
        "fixed. A final d after a group makes bytes of scales, as in nf4g64d. At the end +2:4 or "
        "+50% leaves weights out, +25%ch whole columns, +2%int8 keeps a share of the columns in "
        "int8 or bf16, and +r16 adds a term of that rank. none leaves out a whole sublayer of "
        "attention or feed-forward."
    )


_NAME = re.compile(
    rf"(?P<stem>{'|'.join(sorted(FAMILIES, key=len, reverse=True))})"
    r"(?:g(?P<group>[1-9][0-9]*))?(?P<symmetric>s?)(?P<double>d?)"
)

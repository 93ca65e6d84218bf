"""Options that say what a plan must keep to beside its budget, and what their texts mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitplan.errors import InputError
from bitplan.schema import Scheme

if TYPE_CHECKING:
    from bitplan.allocator import AbstractResource, Constraints

OptionalBudgetGb = Annotated[
    float | None,
    typer.Option(
        "--budget-gb",
        help="For the whole model, in GB of 10^9 bytes; needed unless bits or something else is "
        "limited.",
    ),
]
Pins = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        metavar="LAYER=SCHEME",
        help="What a layer may take; wildcards and several schemes, as '*.v_proj=int4g64|int8s'.",
    ),
]
Fuse = Annotated[bool, typer.Option("--fuse", help="One scheme for q, k, v and for gate, up.")]


@dataclass(frozen=True, kw_only=True)
class ConstraintOptions:
    """The group of those that say what a plan must keep to."""

    pins: Pins = None
    fuse: Fuse = False
    floors: Annotated[
        list[str] | None,
        typer.Option(
            "--floor",
            metavar="LAYER=BITS",
            help="The fewest bits per weight, scales included, or a scheme's; as "
            "'*.v_proj=int4g64'.",
        ),
    ] = None
    ceilings: Annotated[
        list[str] | None,
        typer.Option("--ceiling", metavar="LAYER=BITS", help="The most bits per weight, likewise."),
    ] = None
    ties: Annotated[
        list[str] | None,
        typer.Option(
            "--tie",
            metavar="LAYERS",
            help="One scheme for all that match, as '*.q_proj|*.k_proj'.",
        ),
    ] = None
    most_schemes: Annotated[
        int | None, typer.Option(min=1, help="Different schemes in the plan at most.")
    ] = None
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Only schemes that it can load: bitplan (all) or torch-cpu (torch's own matmuls)."
        ),
    ] = None
    average_bits: Annotated[
        float | None,
        typer.Option(help="At most, over all weights with a scheme; 8 x bytes / weights."),
    ] = None
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=MOST",
            help="weight_bytes, cache_bytes, workspace_bytes, read_bytes or bit_ops (for one "
            "token), seconds; cache_bytes@CONTEXTxBATCH for less than was measured, bit_ops@BITS "
            "for so many activation bits, bit_ops@weights for as many as the weights have.",
            show_default="the dtype's",
        ),
    ] = None
    latency: Annotated[
        Path | None,
        typer.Option("--latency", help="JSON with the seconds of layers in schemes, for seconds."),
    ] = None

    def read(self, budget_gb: float | None = math.inf) -> "Constraints":
        """What the options say.

        Raises `InputError`, also where neither the budget, None then, nor a limit is given.
        """
        from bitplan.allocator import AverageBits, Constraints

        limits = _pairs("limit", self.limits)
        resources = [_resource(name, most, self.latency) for name, most in limits.items()]
        if self.average_bits is not None:
            resources.insert(0, AverageBits(most=self.average_bits))
        if budget_gb is None and not resources:
            raise InputError(
                "Nothing says how small the model must be. Give --budget-gb, or --average-bits or "
                "--limit."
            )
        if self.latency is not None and "seconds" not in limits:
            raise InputError(
                f"{self.latency} limits nothing. Add --limit seconds=MOST, or leave it out."
            )
        return Constraints(
            pins=pins_of(self.pins),
            floors=_bounds("floor", self.floors),
            ceilings=_bounds("ceiling", self.ceilings),
            ties=tuple(tie.split("|") for tie in self.ties or ()),
            fuse=self.fuse,
            most_schemes=self.most_schemes,
            runtime=self.runtime,
            limits=tuple(resources),
        )


def pins_of(texts: list[str] | None) -> dict[str, list[str]]:
    """Layer name or wildcard -> schemes."""
    return {layer: schemes.split("|") for layer, schemes in _pairs("pin", texts).items()}


def _pairs(noun: str, texts: list[str] | None) -> dict[str, str]:
    """What is left of the last = and what is right of it."""
    example = {"pin": "LAYER=SCHEME. Write '*.v_proj=int4g64'", "limit": "NAME=MOST"}
    pairs: dict[str, str] = {}
    for text in texts or ():
        left, equals, right = text.rpartition("=")
        if not (equals and left and right):
            wanted = example.get(noun, "LAYER=BITS. Write '*.v_proj=4.5'")
            raise InputError(f"The {noun} {text!r} is not {wanted}.")
        if left in pairs:
            raise InputError(f"The {noun} {left!r} is given twice. Give it once.")
        pairs[left] = right
    return pairs


def _bounds(noun: str, texts: list[str] | None) -> "Mapping[str, Scheme | float]":
    from bitplan.allocator import bits_of

    return {layer: bits_of(text) for layer, text in _pairs(noun, texts).items()}


def _resource(name: str, most: str, latency: Path | None) -> "AbstractResource":
    from bitplan.allocator import RESOURCES, BitOps, CacheBytes, Latencies, Seconds

    number = _number(name, most)
    if name == "seconds":
        if latency is None:
            raise InputError("A limit on seconds needs --latency, a file with the seconds.")
        return Seconds(most=number, latencies=Latencies.load(latency))
    name, at, size = name.partition("@")
    if name not in RESOURCES or (at and name not in ("cache_bytes", "bit_ops")):
        known = ", ".join([*RESOURCES, "seconds"])
        raise InputError(f"There is no limit {name + at + size!r}. Choose one of {known}.")
    if not at:
        return RESOURCES[name](most=number)
    if name == "bit_ops":
        if size != "weights" and not size.isdecimal():
            raise InputError(f"{size!r} are no activation bits. Write bit_ops@8=MOST.")
        return BitOps(most=number, activation_bits="weights" if size == "weights" else int(size))
    context, _, batch = size.partition("x")
    if not (context.isdecimal() and (batch or "1").isdecimal()):
        raise InputError(f"{size!r} is no context and batch. Write cache_bytes@4096x2=MOST.")
    return CacheBytes(most=number, context=int(context), batch=int(batch or 1))


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"The limit {name!r} is {text!r}, which is no number.") from None
    return int(number) if number.is_integer() else number

"""What a plan must keep to, as the command line takes it."""

import math
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import typer

from bitplan.allocator import (
    AverageBits,
    BitOps,
    CacheBytes,
    Constraints,
    Latencies,
    ReadBytes,
    Seconds,
    Workspace,
)
from bitplan.cli.constraints import ConstraintOptions
from bitplan.cli.groups import grouped
from bitplan.errors import InputError
from bitplan.schema import Scheme


def read(budget_gb: float | None = math.inf, **options) -> Constraints:
    return ConstraintOptions(**options).read(budget_gb)


def test_nothing_is_no_constraint():
    assert read() == Constraints()
    assert read().fixes_nothing
    assert read(pins=[], limits=[], fuse=True).fixes_nothing


def test_every_option_is_read(tmp_path):
    times = Path(tmp_path / "times.json")
    latencies = Latencies.of({("*", "int4"): 0.5})
    times.write_text(latencies.model_dump_json())
    found = read(
        pins=["a=b=int4|int8", "c=bf16"],
        fuse=True,
        floors=["*=4.5", "*.q=int4g64"],
        ceilings=["lm_head=8"],
        ties=["*.q|*.k", "lm_head"],
        most_schemes=3,
        runtime="torch-cpu",
        average_bits=4.1,
        limits=[
            "read_bytes=2e9",
            "workspace_bytes=7",
            "cache_bytes=5",
            "cache_bytes@64=6",
            "cache_bytes@64x2=7.5",
            "bit_ops=1e12",
            "bit_ops@8=2",
            "bit_ops@weights=3",
            "seconds=0.25",
        ],
        latency=times,
    )
    assert found == Constraints(
        pins={"a=b": ["int4", "int8"], "c": ["bf16"]},
        fuse=True,
        floors={"*": 4.5, "*.q": Scheme.parse("int4g64")},
        ceilings={"lm_head": 8.0},
        ties=(["*.q", "*.k"], ["lm_head"]),
        most_schemes=3,
        runtime="torch-cpu",
        limits=(
            AverageBits(most=4.1),
            ReadBytes(most=2_000_000_000),
            Workspace(most=7),
            CacheBytes(most=5),
            CacheBytes(most=6, context=64, batch=1),
            CacheBytes(most=7.5, context=64, batch=2),
            BitOps(most=10**12),
            BitOps(most=2, activation_bits=8),
            BitOps(most=3, activation_bits="weights"),
            Seconds(most=0.25, latencies=latencies),
        ),
    )


def test_a_command_takes_its_groups_one_by_one_and_its_function_each_as_one():
    app, seen = typer.Typer(), []

    @app.command()
    @grouped
    def command(*, name: str, given: ConstraintOptions, last: int = 3) -> None:
        seen.append((name, given, last))

    arguments = ["--pin", "a=int4", "--pin", "b=int8", "--fuse", "--most-schemes", "2"]
    app(["x", *arguments], standalone_mode=False)
    pins = ["a=int4", "b=int8"]
    assert seen == [("x", ConstraintOptions(pins=pins, fuse=True, most_schemes=2), 3)]
    assert list(signature(command).parameters) == [
        "name",
        *(each.name for each in fields(ConstraintOptions)),
        "last",
    ]


def test_two_options_of_one_name_are_refused():
    def command(*, pins: str, given: ConstraintOptions) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'pins'"):
        grouped(command)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pins": ["a"]}, r"The pin 'a' is not LAYER=SCHEME\. Write '\*\.v_proj=int4g64'"),
        ({"pins": ["a=int4", "a=int8"]}, "The pin 'a' is given twice"),
        ({"floors": ["a"]}, "The floor 'a' is not LAYER=BITS"),
        ({"floors": ["a=4", "a=5"]}, "The floor 'a' is given twice"),
        ({"ceilings": ["a=many"]}, "'many' is not a scheme"),
        ({"limits": ["read_bytes"]}, "The limit 'read_bytes' is not NAME=MOST"),
        ({"limits": ["read_bytes=few"]}, "The limit 'read_bytes' is 'few', which is no number"),
        ({"limits": ["read_bytes=nan"]}, "it must be a number of 0 or more"),
        ({"limits": ["read_bytes=inf"]}, "it must be a number of 0 or more"),
        ({"limits": ["joules=1"]}, "There is no limit 'joules'. Choose one of weight_bytes, cac"),
        ({"limits": ["read_bytes@7=1"]}, "There is no limit 'read_bytes@7'"),
        ({"limits": ["cache_bytes@7x=1"]}, None),
        ({"limits": ["bit_ops@few=1"]}, "'few' are no activation bits. Write bit_ops@8=MOST"),
        ({"limits": ["cache_bytes@axb=1"]}, "'axb' is no context and batch"),
        ({"limits": ["seconds=1"]}, "A limit on seconds needs --latency"),
        ({"latency": Path("t.json")}, "t.json limits nothing. Add --limit seconds=MOST"),
        ({"budget_gb": None}, "Give --budget-gb, or --average-bits or --limit"),
        ({"average_bits": math.nan}, "it must be a number of 0 or more"),
        ({"budget_gb": None, "average_bits": 4.0}, None),
    ],
)
def test_what_cannot_be_read(options, message):
    if message is None:
        assert not read(**options).fixes_nothing
        return
    with pytest.raises(InputError, match=message):
        read(**options)

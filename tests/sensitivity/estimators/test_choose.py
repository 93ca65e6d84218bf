"""Which estimator `auto` stands for: the ladder, over bytes and seconds alone."""

import math
from dataclasses import replace

import pytest

from bitplan.errors import InputError
from bitplan.sensitivity import (
    AUTO,
    LADDER,
    LAYER_ESTIMATORS,
    Resources,
    check_estimator,
    choose_estimator,
)

# 70 % of 1000 bytes of memory may be held, half of 1000 bytes of disk be filled.
MACHINE = Resources(disk_bytes=1000, memory_bytes=1000)
FITS = {
    "gradient_covariance": Resources(disk_bytes=500, memory_bytes=700, seconds=5),
    "fisher_diagonal": Resources(disk_bytes=400, memory_bytes=600, seconds=13),
}


def too_much(name: str, **more: float) -> dict[str, Resources]:
    return {**FITS, name: replace(FITS[name], **more)}


def test_the_covariances_are_taken_while_they_fit():
    name, why = choose_estimator(FITS, MACHINE)
    assert name == "gradient_covariance"
    assert why == (
        "gradient_covariance takes 500 bytes of the 500 of disk that statistics may fill and holds "
        "700 of the 700 of memory that may be held."
    )
    assert "within the limit of 5 s" in choose_estimator(FITS, replace(MACHINE, seconds=5))[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"disk_bytes": 501}, "takes 501 bytes of disk, and statistics may fill 500"),
        ({"memory_bytes": 701}, "holds 701 bytes in memory, and 700 may be held"),
        ({"seconds": 60.1}, "takes 60.1 s on the fewest sequences, and 60 s is the limit"),
    ],
)
def test_the_diagonal_is_taken_where_the_covariances_do_not_fit(more, said):
    takes = too_much("gradient_covariance", **more)
    name, why = choose_estimator(takes, replace(MACHINE, seconds=60))
    assert name == "fisher_diagonal"
    assert why.startswith(f"gradient_covariance {said}; fisher_diagonal takes 400 bytes")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"disk_bytes": 501}, "takes 501 bytes of disk"),
        ({"memory_bytes": 701}, "holds 701 bytes in memory"),
        ({"seconds": 60.1}, "takes 60.1 s"),
    ],
)
def test_the_weights_alone_are_read_where_nothing_fits(more, said):
    takes = {name: replace(needs, **more) for name, needs in FITS.items()}
    name, why = choose_estimator(takes, replace(MACHINE, seconds=60))
    assert name == "weight_error"
    assert f"gradient_covariance {said}" in why
    assert f"fisher_diagonal {said}" in why
    assert why.endswith("; weight_error reads the weights alone.")


def test_what_the_quantizer_reads_costs_nothing_more():
    nothing = Resources(disk_bytes=0, memory_bytes=0, seconds=0)
    assert choose_estimator(FITS, nothing)[0] == "weight_error"
    name, why = choose_estimator({}, nothing, reads_covariance=True)
    assert name == "gradient_covariance"
    assert "cost nothing more" in why


def test_more_of_anything_never_takes_a_lower_rung():
    sizes = (0, 300, 800, 1000, 1200, math.inf)
    for disk in sizes[:-1]:
        for memory in sizes[:-1]:
            rungs = [
                LADDER.index(
                    choose_estimator(
                        FITS, Resources(disk_bytes=disk, memory_bytes=memory, seconds=seconds)
                    )[0]
                )
                for seconds in (0, 4, 5, 12, 13, math.inf)
            ]
            assert rungs == sorted(rungs, reverse=True)


def test_every_rung_is_an_estimator_and_the_last_reads_no_statistics():
    read = [LAYER_ESTIMATORS[name].moments for name in LADDER]
    assert all(read[:-1])
    assert read[-1] == ()
    assert "single_swaps" not in LADDER


def test_auto_is_a_name_among_the_others():
    check_estimator(AUTO)
    check_estimator("single_swaps")
    with pytest.raises(InputError, match=r"no estimator 'best'. Choose one of: auto, gradient_co"):
        check_estimator("best")

"""Losses by sequence: their standard error beside numpy's, and which of two is the larger."""

import numpy as np
import pytest

from bitplan.sensitivity.losses import Losses, total


def losses_of(by_sequence: np.ndarray, **more: bool) -> Losses:
    loss = float(by_sequence.mean()) if len(by_sequence) else 1.0
    return Losses(loss=loss, by_sequence=by_sequence, **more)


def analytic(by_sequence: np.ndarray) -> float:
    return float(by_sequence.std(ddof=1) / len(by_sequence) ** 0.5)


@pytest.mark.parametrize("count", [2, 3, 8, 64, 300])
def test_the_bootstrap_finds_the_standard_error_of_a_mean(count):
    chance = np.random.default_rng(count)
    ratios = []
    for _ in range(200):
        by_sequence = chance.gamma(2.0, size=count)
        found = losses_of(by_sequence).standard_error
        assert found == losses_of(by_sequence).standard_error
        ratios.append(found / analytic(by_sequence))
    # 256 resamples know a standard deviation to 1 / sqrt(512), and all of these draw the same.
    assert np.mean(ratios) == pytest.approx(1, abs=0.07)
    assert max(np.abs(np.log(ratios))) < 0.25


def test_twice_the_losses_have_twice_the_error():
    by_sequence = np.random.default_rng(0).gamma(2.0, size=16)
    one, two = losses_of(by_sequence), losses_of(2 * by_sequence)
    assert two.standard_error == pytest.approx(2 * one.standard_error)
    assert losses_of(by_sequence + 5).standard_error == pytest.approx(one.standard_error)


def test_what_reads_no_data_has_no_spread():
    assert losses_of(np.empty(0)).standard_error == 0
    assert losses_of(np.full(9, 0.5)).standard_error == pytest.approx(0, abs=1e-12)


def test_one_sequence_and_a_guess_may_be_all_wrong():
    one = losses_of(np.array([0.5]))
    guess = losses_of(np.array([0.5, 0.6, 0.7]), is_guess=True)
    assert one.standard_error == one.loss
    assert guess.standard_error == guess.loss
    other = losses_of(np.array([5.0]))
    assert not one.is_separate_from(other)
    assert not guess.is_separate_from(losses_of(np.array([5.0, 5.1, 5.2])))
    assert not losses_of(np.array([5.0, 5.1, 5.2])).is_separate_from(guess)


def test_differences_are_paired_by_sequence():
    by_sequence = np.random.default_rng(0).gamma(1.0, size=32)
    one = losses_of(by_sequence)
    little_more = losses_of(by_sequence * 1.1)
    unpaired = losses_of(np.roll(by_sequence, 5) * 1.1)
    # 10% more on every sequence is certain, though far less than either's own standard error.
    assert little_more.loss - one.loss < one.standard_error
    assert one.is_separate_from(little_more)
    assert little_more.is_separate_from(one)
    assert not one.is_separate_from(unpaired)
    assert not one.is_separate_from(one)


@pytest.mark.parametrize("errors", [1.0, 2.0, 4.0])
def test_separate_is_more_than_so_many_standard_errors(errors):
    chance = np.random.default_rng(1)
    zeros = losses_of(np.zeros(200))
    noise = chance.normal(size=200)
    noise -= noise.mean()
    error = analytic(noise)
    assert not zeros.is_separate_from(losses_of(noise + 0.8 * errors * error), errors)
    assert zeros.is_separate_from(losses_of(noise + 1.2 * errors * error), errors)


def test_without_data_any_difference_is_one():
    one = Losses(loss=1.0, by_sequence=np.empty(0))
    assert one.is_separate_from(Losses(loss=1.1, by_sequence=np.empty(0)))
    assert not one.is_separate_from(one)


def test_parts_add_up():
    parts = [losses_of(np.array([1.0, 2.0])), losses_of(np.array([3.0, 5.0]))]
    whole = total(parts)
    assert whole.loss == 5.5
    assert whole.by_sequence.tolist() == [4.0, 7.0]
    assert not whole.is_guess
    assert total([*parts, losses_of(np.zeros(2), is_guess=True)]).is_guess
    assert total([losses_of(np.empty(0)), losses_of(np.empty(0))]).by_sequence.shape == (0,)

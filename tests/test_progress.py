"""How far work is, told from nothing to all."""

import pytest

from bitplan.progress import quiet, track


@pytest.mark.parametrize("count", [0, 1, 3])
def test_progress_rises_to_the_total(count):
    told: list[tuple] = []
    items = list(track(range(count), "stage", lambda *now: told.append(now)))
    assert items == list(range(count))
    assert told == [("stage", done, count) for done in range(count + 1)]


def test_a_count_is_given_for_what_has_no_length():
    told: list[tuple] = []
    assert list(track(iter("ab"), "stage", lambda *now: told.append(now), 2)) == ["a", "b"]
    assert told[-1] == ("stage", 2, 2)


def test_an_interrupt_in_telling_comes_through():
    def stop(stage: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(track("abc", "stage", stop))
    quiet("stage", 0, 1)

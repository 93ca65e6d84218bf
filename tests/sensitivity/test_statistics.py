"""Sums of one layer: added up, completed where experts were not reached, saved and found again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitplan.schema import Kind, Layer
from bitplan.sensitivity import StatisticsFolder
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.statistics import LayerStatistics
from bitplan.sensitivity.sums import Sums
from bitplan.sensitivity.watch import Seen

EXPERTS = Layer(name="block.experts", kind=Kind.EXPERTS, shape=(4, 5, 6))


def sums_of(moment: str, reached: list[int], sequences: int = 2) -> Sums:
    sums = Sums.zeros(moment, EXPERTS, sequences=sequences)
    generator = torch.Generator().manual_seed(8)
    for sequence in range(sequences):
        seen = [
            Seen(
                layer=EXPERTS,
                inputs=torch.randn(20, 6, generator=generator),
                gradients=torch.randn(20, 5, generator=generator),
                expert=expert,
            )
            for expert in reached
        ]
        sums.add(seen, sequence=sequence, tokens=20 * 4)
    return sums


def test_counts_are_of_tokens_given_and_of_those_that_arrived():
    sums = Sums.zeros("inputs", EXPERTS, sequences=2)
    assert not sums.is_complete
    assert sums.tokens == 0
    sums = sums_of("inputs", reached=[0, 2])
    assert sums.is_complete
    assert sums.tokens == 160
    assert sums.rows.tolist() == [40, 0, 40, 0]
    assert sums.reached.tolist() == [True, False, True, False]


def test_tokens_without_a_gradient_do_not_reach_a_matrix():
    sums = Sums.zeros("fisher", EXPERTS, sequences=1)
    seen = Seen(layer=EXPERTS, inputs=torch.ones(3, 6), gradients=torch.zeros(3, 5), expert=1)
    sums.add([seen], sequence=0, tokens=3)
    assert sums.rows.tolist() == [0, 3, 0, 0]
    assert not sums.reached.any()


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_was_reached_stays_as_it_is(moment):
    for reached in ([0, 1, 2, 3], []):
        sums = sums_of(moment, reached)
        assert sums.completed() is sums


@pytest.mark.parametrize("moment", MOMENTS)
def test_experts_never_reached_have_the_mean_of_the_others(moment):
    sums = sums_of(moment, [0, 2, 3])
    completed = LayerStatistics(moments={moment: sums}).completed()
    tensor = completed[moment][moment]
    assert torch.allclose(tensor[1], tensor[[0, 2, 3]].mean(0))
    assert torch.equal(tensor[[0, 2, 3]], sums.tensors[moment][[0, 2, 3]])
    assert completed.rows.tolist() == [40, 40, 40, 40]
    assert completed.reached.tolist() == [True, False, True, True]


def test_h_is_a_mean_over_all_tokens():
    sums = sums_of("covariance", [0])
    statistics = LayerStatistics(moments={"covariance": sums})
    assert torch.allclose(statistics.covariance * 160, sums.tensors["covariance"])
    assert statistics.tokens == 160
    assert statistics.sequences.tolist() == [80, 80]


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_is_saved_is_found(moment, tmp_path):
    folder = StatisticsFolder(folder=tmp_path, sequences=2)
    assert folder.find(EXPERTS, moment) is None
    assert not folder.has(EXPERTS, moment)
    for sums in (Sums.zeros(moment, EXPERTS, sequences=2), sums_of(moment, [0, 2])):
        folder.save(EXPERTS, sums)
        found = folder.find(EXPERTS, moment)
        assert folder.has(EXPERTS, moment) == sums.is_complete
        for one in (found, found.copy()):
            assert {"moment": one.moment, **counts(one)} == {"moment": moment, **counts(sums)}
            assert set(one.tensors) == set(sums.tensors)
            assert all(torch.equal(one.tensors[name], sums.tensors[name]) for name in one.tensors)
    assert folder.read(EXPERTS, [moment]).tokens == 160


def counts(sums: Sums) -> dict[str, list]:
    return {name: getattr(sums, name).tolist() for name in ("sequences", "rows", "reached")}


def drop(tensors: dict) -> None:
    del tensors["count/rows"]


def narrow(tensors: dict) -> None:
    tensors["fisher"] = tensors["fisher"][:, :4].contiguous()


def add(tensors: dict) -> None:
    tensors["more"] = torch.zeros(1)


def shorten(tensors: dict) -> None:
    tensors["count/sequences"] = tensors["count/sequences"][:1].clone()


@pytest.mark.parametrize("change", [drop, narrow, add, shorten])
def test_a_file_of_something_else_is_not_found(change, tmp_path):
    folder = StatisticsFolder(folder=tmp_path, sequences=2)
    folder.save(EXPERTS, sums_of("fisher", [0]))
    path: Path = folder.path(EXPERTS, "fisher")
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    assert folder.find(EXPERTS, "fisher") is None

"""Gathering stopped and gone on with, damaged and done again, and sequences that are left out."""

import logging
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import find_layers
from bitplan.progress import quiet
from bitplan.schema import Layer
from bitplan.sensitivity import StatisticsFolder, WholeModel, gather
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.sums import LEFT_OUT


def run(
    model: nn.Module,
    tokens: Tensor,
    folder: Path,
    *,
    layers: Sequence[Layer] | None = None,
    moments: Sequence[str] = tuple(MOMENTS),
    progress: Callable[[str, int, int], None] = quiet,
) -> StatisticsFolder:
    found = StatisticsFolder(folder=folder, sequences=len(tokens))
    through = WholeModel(model=model, tokens=tokens, progress=progress)
    gather(find_layers(model) if layers is None else layers, moments, through, found)
    return found


def files_under(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_an_interrupt_at_any_sequence_changes_no_byte(tiny_model, some_tokens, tmp_path):
    model, tokens = tiny_model("mixtral"), some_tokens(5)
    layers, told = find_layers(model), []
    run(model, tokens, tmp_path / "whole", progress=lambda *now: told.append(now[1:]))
    expected = files_under(tmp_path / "whole")
    assert set(expected) == {
        f"{layer.name}/{moment}.safetensors" for layer in layers for moment in MOMENTS
    }
    assert told == [(done, 5) for done in range(6)]
    for stop_at in range(6):
        folder = tmp_path / f"stopped-{stop_at}"

        def stop(stage: str, done: int, total: int, at: int = stop_at) -> None:
            if done == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(model, tokens, folder, progress=stop)
        assert (files_under(folder) == expected) == (stop_at == 5)  # the last word comes at the end
        told.clear()
        run(model, tokens, folder, progress=lambda *now: told.append(now[1]))
        assert files_under(folder) == expected
        assert told == (list(range(stop_at, 6)) if stop_at < 5 else [])


# Python drops an interrupt that comes while it finalizes an object, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_instant_change_no_byte(tiny_model, some_tokens, tmp_path):
    model, tokens = tiny_model("mixtral"), some_tokens(6)
    run(model, tokens, tmp_path / "whole")
    expected, stopped = files_under(tmp_path / "whole"), tmp_path / "stopped"

    interrupts: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    chance = random.Random(0)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            already = len(interrupts)
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.002, 0.1))
                run(model, tokens, stopped)
                signal.setitimer(signal.ITIMER_REAL, 0)
                for path in stopped.rglob("*.safetensors"):
                    path.unlink()
            except BaseException:
                # Not only KeyboardInterrupt: torch's own code may make another error of it.
                if len(interrupts) == already:
                    raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    run(model, tokens, stopped)
    assert len(interrupts) > 10
    assert files_under(stopped) == expected


def test_only_what_is_lacking_is_gathered(tiny_model, some_tokens, tmp_path):
    model, tokens = tiny_model("llama"), some_tokens(3)
    layers = find_layers(model)
    run(model, tokens, tmp_path / "whole", moments=["covariance", "fisher"])
    folder = tmp_path / "parts"
    run(model, tokens, folder, layers=layers[:2], moments=["fisher"])
    first = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    run(model, tokens, folder, moments=["covariance", "fisher"])
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert files_under(folder) == files_under(tmp_path / "whole")
    told = []
    run(model, tokens, folder, moments=["fisher"], progress=lambda *now: told.append(now))
    assert not told


def test_an_interrupt_between_a_whole_file_and_the_end_of_its_parts_leaves_nothing(
    tiny_model, some_tokens, tmp_path
):
    model, tokens = tiny_model("llama"), some_tokens(3)
    run(model, tokens, tmp_path)
    expected = files_under(tmp_path)
    for path in list(tmp_path.rglob("*.safetensors")):
        path.with_name(f"{path.stem}.partial.safetensors").write_bytes(path.read_bytes())
    run(model, tokens, tmp_path)
    assert files_under(tmp_path) == expected


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"no safetensors at all")


@pytest.mark.parametrize("damage", [cut, empty, garble, Path.unlink])
def test_a_damaged_file_is_measured_again(damage, tiny_model, some_tokens, tmp_path):
    model, tokens, layers = (
        tiny_model("llama-tied"),
        some_tokens(4),
        find_layers(tiny_model("llama")),
    )
    folder = run(model, tokens, tmp_path)
    expected = files_under(tmp_path)
    damage(folder.path(layers[1], "fisher"))
    assert files_under(tmp_path) != expected
    run(model, tokens, tmp_path)
    assert files_under(tmp_path) == expected


def test_files_of_other_statistics_are_measured_again(tiny_model, some_tokens, tmp_path):
    model = tiny_model("llama-tied")
    folder = run(model, some_tokens(4), tmp_path)
    expected = files_under(tmp_path)
    run(model, some_tokens(9), tmp_path)  # of other sequences
    assert files_under(tmp_path) != expected
    for layer in find_layers(model):  # and of another moment
        folder.path(layer, "inputs").replace(folder.path(layer, "covariance"))
    run(model, some_tokens(4), tmp_path)
    assert files_under(tmp_path) == expected


class Breaks:
    """Puts values that are not finite in a model of llama, in sequences that hold a token."""

    def __init__(self, model: nn.Module, token: int, what: str) -> None:
        self.token, self.holds = token, False
        model.get_input_embeddings().register_forward_pre_hook(self.look)
        block = model.model.layers[1]
        if what == "loss":
            model.model.norm.register_forward_hook(self.infinite_output)
        elif what == "gradient":
            block.register_forward_hook(self.infinite_slope)
        else:
            block.mlp.up_proj.register_forward_pre_hook(self.infinite_input)
            block.mlp.up_proj.register_forward_hook(self.finite_output)

    def look(self, _: nn.Module, args: tuple) -> None:
        self.holds = bool((args[0] == self.token).any())

    def infinite_output(self, _: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output * torch.inf if self.holds else output

    def infinite_slope(self, _: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output + torch.sqrt(torch.abs(output * 0)) if self.holds else output

    def infinite_input(self, _: nn.Module, args: tuple) -> tuple:
        return (torch.full_like(args[0], torch.inf),) if self.holds else args

    def finite_output(self, _: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.zeros_like(output) if self.holds else output


SAID = {
    "loss": "its loss",
    "gradient": "a gradient at model.layers.1.mlp.down_proj",
    "input": "an input of model.layers.1.mlp.up_proj",
}


@pytest.mark.parametrize("what", SAID)
def test_a_sequence_that_is_not_finite_is_left_out_and_named(
    what, tiny_model, some_tokens, tmp_path, caplog
):
    model, tokens = tiny_model("llama"), some_tokens(5)
    others = [0, 1, 2, 4]
    expected = run(tiny_model("llama"), tokens[others], tmp_path / "others")
    tokens[3, 7] = 2  # no other sequence has this token
    Breaks(model, 2, what)
    with caplog.at_level(logging.WARNING):
        found = run(model, tokens, tmp_path / "all")
    assert f"Calibration sequence 3 is left out: {SAID[what]} is not finite" in caplog.text
    assert caplog.text.count("is left out") == 1
    for layer in find_layers(model):
        for moment in MOMENTS:
            ours, theirs = found.find(layer, moment), expected.find(layer, moment)
            assert ours.sequences.tolist() == [24, 24, 24, LEFT_OUT, 24]
            assert ours.tokens == theirs.tokens == 4 * 24
            assert torch.equal(ours.rows, theirs.rows)
            for name, tensor in ours.tensors.items():
                if name == "sketches":  # whose signs the place of a sequence gives
                    assert not tensor[3].any()
                    assert torch.equal(tensor[:3], theirs.tensors[name][:3])
                    continue
                if name in MOMENTS[moment].by_sequence:
                    assert not tensor[3].any()
                    tensor = tensor[others]
                assert torch.equal(tensor, theirs.tensors[name])
        assert found.read(layer, ["inputs"]).sequences.tolist() == [24, 24, 24, 0, 24]


def test_an_interrupt_beside_a_sequence_that_is_left_out_changes_no_byte(
    tiny_model, some_tokens, tmp_path
):
    model, tokens = tiny_model("llama"), some_tokens(4)
    tokens[1, 7] = 2
    Breaks(model, 2, "gradient")
    run(model, tokens, tmp_path / "whole")
    for stop_at in range(4):

        def stop(stage: str, done: int, total: int, at: int = stop_at) -> None:
            if done == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(model, tokens, tmp_path / f"{stop_at}", progress=stop)
        run(model, tokens, tmp_path / f"{stop_at}")
        assert files_under(tmp_path / f"{stop_at}") == files_under(tmp_path / "whole")


@pytest.mark.parametrize("what", SAID)
def test_a_model_that_is_finite_nowhere_is_refused_each_time(
    what, tiny_model, some_tokens, tmp_path, caplog
):
    model, tokens = tiny_model("llama"), some_tokens(3)
    tokens[:, 0] = 2
    Breaks(model, 2, what)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"At .* every calibration sequence has values that"):
            run(model, tokens, tmp_path)
    assert caplog.text.count("is left out") == 3

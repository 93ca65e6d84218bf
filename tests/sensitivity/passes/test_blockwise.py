"""Block by block, layers see what they see in the whole model, bit for bit."""

import resource
import shutil

import pytest
import torch
from torch import Tensor

from bitplan.errors import ModelError, OutputError
from bitplan.models import find_layers
from bitplan.sensitivity import BlockWise, StatisticsFolder, WholeModel, gather
from bitplan.sensitivity.moments import MOMENTS

CHAINS = ["llama", "llama-tied", "gpt2", "mixtral", "gemma", "gpt-oss", "llama4", "mamba"]


def tokens_for(sequences: int = 3, length: int = 24) -> Tensor:
    return torch.randint(3, 96, (sequences, length), generator=torch.Generator().manual_seed(1))


def files_of(folder) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def gathered(model, through, folder) -> dict[str, bytes]:
    statistics = StatisticsFolder(folder=folder, sequences=len(through.tokens))
    gather(find_layers(model), MOMENTS, through, statistics)
    return files_of(folder)


@pytest.mark.parametrize(
    ("dtype", "labels"), [(torch.float32, "sampled"), (torch.bfloat16, "data")], ids=str
)
@pytest.mark.parametrize("name", CHAINS)
def test_the_statistics_are_those_of_the_whole_model(name, dtype, labels, tiny_model, tmp_path):
    model, tokens = tiny_model(name, dtype), tokens_for()
    whole = WholeModel(model=model, tokens=tokens, labels=labels)
    expected = gathered(model, whole, tmp_path / "whole")
    blocks = BlockWise(model=model, tokens=tokens, labels=labels, folder=tmp_path / "kept")
    assert gathered(model, blocks, tmp_path / "blocks") == expected
    assert not (tmp_path / "kept").exists()


def test_nothing_of_the_model_is_changed(tiny_model, tmp_path):
    model = tiny_model("mixtral")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [sorted(vars(module)) for module in model.modules()]
    gathered(model, BlockWise(model=model, tokens=tokens_for(), folder=tmp_path / "a"), tmp_path)
    assert [sorted(vars(module)) for module in model.modules()] == names
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def interrupting(at: int):
    def progress(stage: str, done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    return progress


def test_an_interrupt_at_any_step_goes_on_there(tiny_model, tmp_path):
    model, tokens = tiny_model("llama-tied", torch.bfloat16), tokens_for()
    steps: list[int] = []
    expected = gathered(
        model,
        BlockWise(
            model=model,
            tokens=tokens,
            folder=tmp_path / "kept",
            progress=lambda *now: steps.append(now[1]),
        ),
        tmp_path / "whole",
    )
    assert steps == list(range(5 * 3 + 1))
    for at in steps:
        found = tmp_path / f"stopped-{at}"
        arguments = {"model": model, "tokens": tokens, "folder": tmp_path / f"kept-{at}"}
        with pytest.raises(KeyboardInterrupt):
            gathered(model, BlockWise(**arguments, progress=interrupting(at)), found)
        again: list[int] = []
        blocks = BlockWise(**arguments, progress=lambda *now, told=again: told.append(now[1]))
        assert gathered(model, blocks, found) == expected
        assert again == (steps[at:] if at < steps[-1] else [])
        assert not (tmp_path / f"kept-{at}").exists()


def test_a_lost_folder_is_made_again(tiny_model, tmp_path):
    model, tokens = tiny_model("gpt2"), tokens_for()
    arguments = {"model": model, "tokens": tokens, "folder": tmp_path / "kept"}
    expected = gathered(model, BlockWise(**arguments), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        gathered(model, BlockWise(**arguments, progress=interrupting(10)), tmp_path / "found")
    shutil.rmtree(tmp_path / "kept")
    assert gathered(model, BlockWise(**arguments), tmp_path / "found") == expected


def test_two_at_once_do_not_meet(tiny_model, tmp_path):
    model, tokens = tiny_model("llama"), tokens_for()
    arguments = {"model": model, "tokens": tokens, "folder": tmp_path / "kept"}
    other: dict[str, bytes] = {}

    def meanwhile(stage: str, done: int, total: int) -> None:
        if done == 8:
            model = tiny_model("llama")  # as a process of its own has
            blocks = BlockWise(**{**arguments, "model": model})
            other.update(gathered(model, blocks, tmp_path / "other"))

    first = gathered(model, BlockWise(**arguments, progress=meanwhile), tmp_path / "first")
    assert first == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "other"]


def test_a_sequence_whose_loss_is_not_finite_is_left_out_of_every_block(
    tiny_model, tmp_path, caplog
):
    model, tokens = tiny_model("llama"), tokens_for()
    tokens[tokens == 95] = 94
    tokens[1, 5] = 95
    model.model.embed_tokens.weight[95] = float("nan")
    whole = gathered(model, WholeModel(model=model, tokens=tokens), tmp_path / "whole")
    caplog.clear()
    blocks = BlockWise(model=model, tokens=tokens, folder=tmp_path / "kept")
    assert gathered(model, blocks, tmp_path / "blocks") == whole
    assert caplog.text.count("sequence 1 is left out: its loss is not finite") == 3


def test_a_disk_without_room_is_said_before_the_work(tiny_model, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    model = tiny_model("llama")
    blocks = BlockWise(model=model, tokens=tokens_for(), folder=tmp_path / "kept")
    # 3 sequences x 24 tokens x 32 x 4 bytes, at three boundaries, and two of gradients.
    with pytest.raises(OutputError, match=r"46,080 bytes .* where 10,000 are free"):
        gathered(model, blocks, tmp_path / "found")


def test_a_full_disk_keeps_what_was_measured(tiny_model, tmp_path):
    model, tokens = tiny_model("llama"), tokens_for()
    arguments = {"model": model, "tokens": tokens, "folder": tmp_path / "kept"}
    expected = gathered(model, BlockWise(**arguments), tmp_path / "whole")

    def fill(stage: str, done: int, total: int) -> None:
        if done == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError, match="take 9,216 bytes for each block"):
            gathered(model, BlockWise(**arguments, progress=fill), tmp_path / "found")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert gathered(model, BlockWise(**arguments), tmp_path / "found") == expected


def test_an_encoder_decoder_is_refused(tiny_model, tmp_path):
    model = tiny_model("t5")
    blocks = BlockWise(model=model, tokens=tokens_for(), folder=tmp_path / "kept")
    with pytest.raises(ModelError, match=r"T5.* cannot be run block by block: block 0 reads more"):
        blocks.check(find_layers(model))

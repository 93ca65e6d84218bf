"""Peers score the model in environments of their own, once for each sample; kept as JSON.

A score is of a group of linears that the peer gives one format, at each width. Peers choose under
other counts of bytes than ours (ModelOpt counts no scales, AutoRound rounds its zero points), so
their scores go to our exact solver under our bytes, with the peer's groups tied. ModelOpt's integer
program and AutoRound's dynamic program are exact as well: theirs is the same choice, at the budget
that our bytes amount to. ModelOpt's kl_div is not summed by ModelOpt but held under a threshold,
which is an arm of its own.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground import GROUP, WIDTHS
from models import Subject
from texts import CALIBRATION, LENGTH, calibration_of

from bitplan.models import load_tokenizer

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from peer_environment import plain_folder, python_of, run, write_texts, write_tokens  # noqa: E402

KL_SEQUENCES = 2
"""Of the calibration sample: kl_div runs the model once for each group, width and sequence."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who scores, and how it is asked."""

    packages: tuple[str, ...]
    script: str
    reads_text: bool
    options: tuple[str, ...]

    @property
    def environment(self) -> str:
        """Name of the virtual environment: those with the same packages share it."""
        return Path(self.script).stem.removeprefix("peer_")


_MODELOPT = (
    "torch==2.13.0",
    "nvidia-modelopt==0.47.0",
    "transformers",
    "omegaconf",
    "pulp<4",
    "requests",
)
_AUTOROUND = ("torch==2.13.0", "auto-round==0.16.1")
PEERS = {
    "modelopt_gradient": Peer(
        packages=_MODELOPT,
        script="peer_modelopt.py",
        reads_text=False,
        options=("--method", "gradient", "--sequences", str(CALIBRATION)),
    ),
    "modelopt_kl_div": Peer(
        packages=_MODELOPT,
        script="peer_modelopt.py",
        reads_text=False,
        options=("--method", "kl_div", "--sequences", str(KL_SEQUENCES)),
    ),
    "autoscheme": Peer(
        packages=_AUTOROUND,
        script="peer_autoround.py",
        reads_text=True,
        options=("--sequences", str(CALIBRATION), "--length", str(LENGTH)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a peer said: groups of layers, their score at each width, and what it took."""

    groups: tuple[tuple[str, ...], ...]
    scores: tuple[dict[int, float], ...]  # one for each group
    seconds: float
    tokens: int


def scores_of(name: str, subject: Subject, seed: int, folder: Path) -> Scores:
    """The peer's scores, made once for each model and seed. Raises `PeerError`."""
    peer, place = PEERS[name], folder / "peers" / subject.name
    out = place / f"{name}-{seed}.json"
    if not out.is_file():
        model = plain_folder(subject.source, place / "model")
        read = (_texts if peer.reads_text else _tokens)(subject, seed, place)
        python = python_of(peer.packages, folder / "peers" / peer.environment)
        made = out.with_suffix(".part")
        command = [python, HERE / peer.script, model, read, made, *peer.options]
        command += ["--group", GROUP, "--bits", *WIDTHS]
        print(f"  {name} scores the model", flush=True)
        # AutoRound keeps in a folder what it has scored.
        kept = {"AR_AUTO_SCHEME_CACHE": str(out.with_suffix(""))}
        run(command, out.with_suffix(".log"), kept)
        made.rename(out)
    found: dict[str, Any] = json.loads(out.read_text())
    return Scores(
        groups=tuple(tuple(group["layers"]) for group in found["groups"]),
        scores=tuple(
            {int(bits): score for bits, score in group["scores"].items()}
            for group in found["groups"]
        ),
        seconds=found["seconds"],
        tokens=found["tokens"],
    )


def _tokens(subject: Subject, seed: int, folder: Path) -> Path:
    tokens = calibration_of(subject.documents, load_tokenizer(subject.source), seed)
    return write_tokens(tokens, folder / f"tokens-{seed}.safetensors")


def _texts(subject: Subject, seed: int, folder: Path) -> Path:
    tokenizer = load_tokenizer(subject.source)
    tokens = calibration_of(subject.documents, tokenizer, seed)
    return write_texts(tokens, tokenizer, folder / f"texts-{seed}.jsonl")

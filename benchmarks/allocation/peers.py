"""Peers score the model in environments of their own, once for each sample; kept as JSON.

A score is of a group of linears that the peer gives one format, at each width. Peers choose under
other counts of bytes than ours (ModelOpt counts no scales, AutoRound rounds its zero points), so
their scores go to our exact solver under our bytes, with the peer's groups tied. ModelOpt's integer
program and AutoRound's dynamic program are exact as well: theirs is the same choice, at the budget
that our bytes amount to. ModelOpt's kl_div is not summed by ModelOpt but held under a threshold,
which is an arm of its own.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground import GROUP, WIDTHS
from huggingface_hub import save_torch_state_dict
from models import Subject
from safetensors.torch import save_file
from texts import CALIBRATION, LENGTH, calibration_of

from bitplan.models import load_model, load_tokenizer

HERE = Path(__file__).parent
KL_SEQUENCES = 2
"""Of the calibration sample: kl_div runs the model once for each group, width and sequence."""
LOOKAHEAD = 16
"""Tokens by which a text goes on: AutoRound drops what tokenizes to less than it asks for."""


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


class PeerError(Exception):
    """A peer that cannot be installed, or that cannot score this model."""


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
        model = _exported(subject, place / "model")
        read = (_texts if peer.reads_text else _tokens)(subject, seed, place)
        python = _python(peer, folder / "peers")
        made = out.with_suffix(".part")
        command = [python, HERE / peer.script, model, read, made, *peer.options]
        command += ["--group", GROUP, "--bits", *WIDTHS]
        print(f"  {name} scores the model", flush=True)
        _run([str(part) for part in command], out.with_suffix(".log"))
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


def _exported(subject: Subject, folder: Path) -> Path:
    """The model as a plain folder, with the very weights that we start from."""
    if not (folder / "config.json").is_file():
        # config.json comes last: it tells that all is there.
        load_tokenizer(subject.source).save_pretrained(folder)
        model: Any = load_model(subject.source)
        save_torch_state_dict(model.state_dict(), folder)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
    return folder


def _tokens(subject: Subject, seed: int, folder: Path) -> Path:
    path = folder / f"tokens-{seed}.safetensors"
    tokens = calibration_of(subject.documents, load_tokenizer(subject.source), seed)
    save_file({"tokens": tokens.contiguous()}, path)
    return path


def _texts(subject: Subject, seed: int, folder: Path) -> Path:
    """One text a sequence, which tokenizes to the sequence and a little more."""
    tokenizer = load_tokenizer(subject.source)
    flat = calibration_of(subject.documents, tokenizer, seed).flatten()
    starts = range(0, len(flat), LENGTH)
    texts = [tokenizer.decode(flat[start : start + LENGTH + LOOKAHEAD]) for start in starts]
    path = folder / f"texts-{seed}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def _python(peer: Peer, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made where there is none."""
    place = folder / peer.environment
    python, complete = place / "bin" / "python", place / "complete"
    wanted = "\n".join(peer.packages)
    if not complete.is_file() or complete.read_text() != wanted:
        print(f"  installing {', '.join(peer.packages)}", flush=True)
        log = folder / f"{peer.environment}.log"
        _run([sys.executable, "-m", "venv", str(place)], log)
        _run([str(python), "-m", "pip", "install", "--quiet", *peer.packages], log)
        complete.write_text(wanted)
    return python


def _run(command: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=_environment(log.with_suffix("")),
            check=False,
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise PeerError(f"{command[1]} failed ({' '.join(last)}); {log} has it in full.")


def _environment(scored: Path) -> dict[str, str]:
    """Ours without our packages; AutoRound keeps in a folder what it has scored."""
    theirs = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return theirs | {"AR_AUTO_SCHEME_CACHE": str(scored)}

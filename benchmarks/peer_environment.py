"""Environments of peers, one virtual environment for each set of packages, and what they read."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from bitplan.models import load_model, load_tokenizer

LOOKAHEAD = 16
"""Tokens by which a text goes on: AutoRound drops what tokenizes to less than it asks for."""


class PeerError(Exception):
    """A peer that cannot be installed, or that fails at what it is asked."""


def python_of(packages: Sequence[str], place: Path) -> Path:
    """The interpreter of an environment, which is made where there is none."""
    python, complete = place / "bin" / "python", place / "complete"
    wanted = "\n".join(packages)
    if not complete.is_file() or complete.read_text() != wanted:
        print(f"  installing {', '.join(packages)}", flush=True)
        log = place.with_name(f"{place.name}.log")
        run([sys.executable, "-m", "venv", str(place)], log)
        run([str(python), "-m", "pip", "install", "--quiet", *packages], log)
        complete.write_text(wanted)
    return python


def run(command: Sequence[object], log: Path, more: Mapping[str, str] | None = None) -> None:
    """Run without our packages, all that is said in a log; `more` variables of the environment."""
    log.parent.mkdir(parents=True, exist_ok=True)
    theirs = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    with log.open("a") as file:
        done = subprocess.run(
            words,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=theirs | dict(more or {}),
            check=False,
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise PeerError(f"{words[1]} failed ({' '.join(last)}); {log} has it in full.")


def plain_folder(source: str, folder: Path) -> Path:
    """The model as a plain folder, with the very weights that we start from."""
    if not (folder / "config.json").is_file():
        # config.json comes last: it tells that all is there.
        load_tokenizer(source).save_pretrained(folder)
        model: Any = load_model(source)
        save_torch_state_dict(model.state_dict(), folder)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
    return folder


def write_tokens(tokens: Tensor, path: Path) -> Path:
    """Sequences [sequences, length], by the name `tokens`."""
    save_file({"tokens": tokens.contiguous()}, path)
    return path


def write_texts(tokens: Tensor, tokenizer: Any, path: Path) -> Path:
    """One text a sequence, which tokenizes to the sequence and a little more."""
    flat, length = tokens.flatten(), tokens.shape[1]
    starts = range(0, len(flat), length)
    texts = [tokenizer.decode(flat[start : start + length + LOOKAHEAD]) for start in starts]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path

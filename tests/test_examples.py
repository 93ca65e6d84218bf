"""The examples run as they stand, on a tiny model."""

import random
import runpy
import sys
from pathlib import Path

import torch
import transformers

EXAMPLES = Path(__file__).parent.parent / "examples"


def text(path: Path, seed: int, documents: int) -> Path:
    rng = random.Random(seed)
    lines = (" ".join(f"w{rng.randrange(92)}" for _ in range(300)) for _ in range(documents))
    path.write_text("\n\n".join(lines))
    return path


def test_the_whole_path_in_ten_lines(tiny_tokenizer, tmp_path, monkeypatch, capsys):
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    folder = tmp_path / "model"
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    calibration, held_out = text(tmp_path / "a.txt", 0, 80), text(tmp_path / "b.txt", 1, 20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITPLAN_CACHE", str(tmp_path / "cache"))
    arguments = ["whole_path.py", str(folder), "0.000015", str(calibration), str(held_out)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLES / "whole_path.py"), run_name="__main__")
    assert "kl=" in capsys.readouterr().out
    assert {"plan.json", "small-model"} <= {path.name for path in tmp_path.iterdir()}

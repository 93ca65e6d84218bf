"""Text sampled from the model itself: calibration for whoever has none."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.errors import CalibrationError
from bitplan.progress import Progress, quiet

BATCH = 16


@torch.no_grad()
def sample_tokens(
    model: nn.Module,
    sequences: int,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    progress: Progress = quiet,
) -> Int[Tensor, "sequences length"]:
    """Sequences drawn token by token from the model, after its own start token.

    The first token is the configured start (or end) of text; without one it is drawn at random.
    Raises `CalibrationError` for a model that does not predict next tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    total = -(-sequences // BATCH) * length
    for start in range(0, sequences, BATCH):
        rows = min(BATCH, sequences - start)
        tokens, cache = [_first(model, rows, generator)], None
        for position in range(1, length):
            progress("sample", (start // BATCH) * length + position, total)
            output = model(input_ids=tokens[-1], past_key_values=cache, use_cache=True)
            if getattr(output, "logits", None) is None:
                raise CalibrationError(
                    f"{type(model).__name__} predicts no next token, so no text can be sampled "
                    "from it. Give calibration text."
                )
            cache = getattr(output, "past_key_values", None)
            chances = (output.logits[:, -1].float() / temperature).softmax(-1).cpu()
            tokens.append(torch.multinomial(chances, 1, generator=generator))
        parts.append(torch.cat(tokens, dim=1))
    progress("sample", total, total)
    return torch.cat(parts)


def _first(model: nn.Module, rows: int, generator: torch.Generator) -> Tensor:
    config = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is None:
        raise CalibrationError(
            f"{type(model).__name__} has no vocabulary size in its config. Give calibration tokens."
        )
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int) and 0 <= token < vocabulary:
            return torch.full((rows, 1), token)
    return torch.randint(vocabulary, (rows, 1), generator=generator)

"""Whatever the caller gave -> three sets of tokens, in proportion to the weights of the sources."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitplan.calibration.apportion import apportion, interleave
from bitplan.calibration.documents import read_documents
from bitplan.calibration.limits import check_length, check_tokens, check_vocabulary
from bitplan.calibration.sample import sample_tokens
from bitplan.calibration.sets import TokenSets, tokens_digest
from bitplan.calibration.sizes import Counts
from bitplan.calibration.sources import Calibration, Source, inputs_of, sources_of
from bitplan.calibration.split import SETS, by_set, split_documents, split_tokens
from bitplan.calibration.tensors import has_tokens, tokens_of
from bitplan.errors import CalibrationError
from bitplan.models import Inputs
from bitplan.progress import Progress, quiet
from bitplan.schema import Domain

log = logging.getLogger(__name__)

SAMPLED = "sampled from the model"
"""How the source of sampled tokens begins: they can be drawn again."""


def prepare(
    calibration: Calibration,
    *,
    model: nn.Module,
    counts: Counts,
    tokenizer: Any = None,
    seed: int = 0,
    temperature: float = 1.0,
    kept: Path | None = None,
    progress: Progress = quiet,
) -> TokenSets:
    """Token sets from whatever the caller gave.

    Each source is split by document, so that none is in two sets; what an earlier source has is
    left out of later ones. Every set draws from all sources in proportion to their weights, of a
    source with too little text as much as there is. `temperature` and `kept` are for
    `sample_tokens`. Raises `CalibrationError` when a set is left without a sequence, tokens exceed
    the vocabulary, or sequences are longer than the model reads.
    """
    if isinstance(calibration, TokenSets):
        return calibration.checked(model)
    if calibration is None:
        tokens = sample_tokens(
            model,
            counts.total,
            counts.length,
            seed=seed,
            temperature=temperature,
            kept=kept,
            progress=progress,
        )
        return _sampled(tokens, counts, seed, temperature)
    if (inputs := inputs_of(calibration)) is not None:
        return _given(inputs, counts).checked(model)
    check_length(counts.length, model)
    sources = sources_of(calibration)
    contents = _read(sources, tokenizer, model)
    domains = _split(sources, contents, tokenizer, counts, seed)
    return _joined(domains, _described(sources, contents, seed)).checked(model)


@dataclass(frozen=True, kw_only=True)
class _Domain:
    """What one source gives to each set."""

    name: str
    documents: int
    parts: dict[str, Tensor]  # set -> [sequences, length]


def _sampled(tokens: Tensor, counts: Counts, seed: int, temperature: float) -> TokenSets:
    parts = split_tokens(tokens, by_set(counts), name="The tokens")
    heat = "" if temperature == 1 else f", temperature {temperature:g}"
    drawn = _Domain(name=SAMPLED, documents=len(tokens), parts=parts)
    return _joined([drawn], f"{SAMPLED}{heat}, seed {seed}")


def _given(inputs: Inputs, counts: Counts) -> TokenSets:
    parts = split_tokens(inputs, by_set(counts), name="The inputs")
    shapes = (f"{name} {list(tensor.shape)}" for name, tensor in inputs.tensors.items())
    return TokenSets(
        calibration=parts["calibration"],
        search=parts["search"],
        held_out=parts["held_out"],
        source=", ".join(shapes),
    )


def _read(sources: Sequence[Source], tokenizer: Any, model: nn.Module) -> list[list[str] | Tensor]:
    """Documents or tokens of each source, without what an earlier source has."""
    contents: list[list[str] | Tensor] = []
    texts: set[str] = set()
    rows: set[bytes] = set()
    for source in sources:
        if has_tokens(source):
            tokens = check_tokens(tokens_of(source), model)
            first = [_is_new(row.numpy().tobytes(), rows) for row in tokens]
            contents.append(tokens[torch.tensor(first)])
            continue
        if tokenizer is None:
            raise CalibrationError(
                "Text needs a tokenizer, and this model came without one. Give tokenizer=, or "
                "tokens."
            )
        check_vocabulary(tokenizer, model)
        assert not isinstance(source.content, Tensor)
        documents = read_documents(source.content, lambda: tokenizer)
        contents.append([text for text in documents if _is_new(text.strip(), texts)])
        if not contents[-1]:
            raise CalibrationError(
                f"{source.label} has no text that is not in an earlier source, too. Leave it out, "
                "and give the other more weight."
            )
    return contents


def _is_new(item: Any, seen: set[Any]) -> bool:
    before = len(seen)
    seen.add(item)
    return len(seen) > before


def _split(
    sources: Sequence[Source],
    contents: Sequence[list[str] | Tensor],
    tokenizer: Any,
    counts: Counts,
    seed: int,
) -> list[_Domain]:
    weights = [source.weight for source in sources]
    shares = {name: apportion(count, weights) for name, count in by_set(counts).items()}
    domains = []
    for index, (source, content) in enumerate(zip(sources, contents, strict=True)):
        wanted = {name: share[index] for name, share in shares.items()}
        several = len(sources) > 1
        if isinstance(content, Tensor):
            called = f"The tokens of {source.label}" if several else "The tokens"
            parts = split_tokens(content, wanted, name=called)
        else:
            called = source.label if several else "The text"
            parts = split_documents(
                content, tokenizer, wanted, counts.length, seed=seed, name=called
            )
        found = len(parts["calibration"])
        if several and (found < wanted["calibration"] or not found):
            log.warning(
                "%s gives %d calibration sequences, of %d that its weight asks for.",
                source.label,
                found,
                wanted["calibration"],
            )
        domains.append(_Domain(name=source.label, documents=len(content), parts=parts))
    return domains


def _joined(domains: Sequence[_Domain], source: str) -> TokenSets:
    total = sum(domain.parts["calibration"].numel() for domain in domains)
    sets = {}
    for name in SETS:
        parts = [domain.parts[name] for domain in domains]
        rows = [parts[part][index] for part, index in interleave([len(part) for part in parts])]
        sets[name] = torch.stack(rows)
    records = tuple(
        Domain(
            name=domain.name,
            documents=domain.documents,
            tokens=domain.parts["calibration"].numel(),
            share=domain.parts["calibration"].numel() / total,
            digest=tokens_digest(domain.parts["calibration"]),
        )
        for domain in domains
    )
    return TokenSets(**sets, source=source, domains=records)


def _described(sources: Sequence[Source], contents: Sequence[list[str] | Tensor], seed: int) -> str:
    """The sources, for people."""
    if len(sources) == 1:
        [source], [content] = sources, contents
        named = source.path is not None or source.name is not None
        label = f"{source.label}, " if named else ""
        if isinstance(content, Tensor):
            return f"{label}tokens {list(content.shape)}"
        return f"{label}{len(content):,} documents, seed {seed}"
    whole = sum(source.weight for source in sources)
    parts = [f"{source.label} ({source.weight / whole:.0%})" for source in sources]
    return f"{', '.join(parts)}, seed {seed}"

"""Gather the moments of a model's layers over the calibration sequences."""

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import closing

from torch import Tensor

from bitplan.errors import ModelError, OutputError
from bitplan.schema import Layer
from bitplan.sensitivity.passes import AbstractPass
from bitplan.sensitivity.statistics import StatisticsFolder
from bitplan.sensitivity.sums import LEFT_OUT, Sums
from bitplan.sensitivity.watch import Seen, by_layer

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0


def gather(
    layers: Sequence[Layer],
    moments: Iterable[str],
    through: AbstractPass,
    folder: StatisticsFolder,
) -> None:
    """Gather what `folder` lacks of the `moments` of `layers`, group by group.

    An interrupted run goes on with the sequence at which it stopped, or was last saved; the files
    are the same then, byte for byte. A sequence with values that are not finite is left out of the
    layers that met them, with a warning that names both. Raises `ModelError` where that leaves
    none.
    """
    lacking = folder.lacking(layers, moments)
    with closing(through.groups(list(lacking))) as groups:
        try:
            for group in groups:
                _gather_group(group, lacking, through, folder)
        except ModelError:
            through.close()  # the same would be found again
            raise
    through.close()


def _gather_group(
    group: Sequence[Layer],
    moments: dict[Layer, list[str]],
    through: AbstractPass,
    folder: StatisticsFolder,
) -> None:
    sums = {layer: [_begun(layer, name, folder) for name in moments[layer]] for layer in group}
    every = [one for ones in sums.values() for one in ones]
    first = min(int(one.sequences.ne(0).sum()) for one in every)
    saved_at, is_torn = time.monotonic(), False
    try:
        with closing(through.run(group, first=first)) as run:
            for sequence, seen in run:
                is_torn = True  # an interrupt may come when some of a sequence is added
                _add(sums, seen, sequence, through.tokens_each)
                is_torn = False
                if time.monotonic() - saved_at > SAVE_EVERY_S:
                    _save(sums, folder)
                    saved_at = time.monotonic()
    except OutputError:
        is_torn = True  # nothing more can be written: the reason is what to tell
        raise
    finally:
        if not is_torn:
            _save(sums, folder)
    for layer, ones in sums.items():
        if not ones[0].tokens:
            raise ModelError(
                f"At {layer.name} every calibration sequence has values that are not finite. Check "
                "the model's weights and the text, or load the model in a wider dtype: bfloat16 "
                "in place of float16, or float32."
            )


def _begun(layer: Layer, moment: str, folder: StatisticsFolder) -> Sums:
    begun = folder.find(layer, moment)
    return begun.copy() if begun else Sums.zeros(moment, layer, sequences=folder.sequences)


def _add(
    sums: dict[Layer, list[Sums]], seen: Sequence[Seen] | None, sequence: int, tokens: int
) -> None:
    broken = "its loss" if seen is None else _not_finite(seen)
    if broken:
        log.warning("Calibration sequence %d is left out: %s is not finite.", sequence, broken)
    calls = by_layer(seen or ())
    for layer, ones in sums.items():
        for one in ones:
            if one.sequences[sequence]:
                continue  # added before the last run was stopped
            if broken:
                one.sequences[sequence] = LEFT_OUT
            else:
                one.add(calls[layer.name], sequence=sequence, tokens=tokens)


def _not_finite(seen: Sequence[Seen]) -> str:
    for one in seen:
        gradients = _square_sum(one.gradients)
        if not gradients.isfinite():
            return f"a gradient at {one.layer.name}"
        if one.is_lookup:
            continue
        inputs = _square_sum(one.inputs)
        if not inputs.isfinite():
            return f"an input of {one.layer.name}"
        # No moment is larger than this.
        if not (gradients * inputs).isfinite():
            return f"the product of a gradient and an input at {one.layer.name}"
    return ""


def _square_sum(values: Tensor) -> Tensor:
    """Not finite as well where the values are, but their squares overflow."""
    return values.float().square().sum()


def _save(sums: dict[Layer, list[Sums]], folder: StatisticsFolder) -> None:
    for layer, ones in sums.items():
        for one in ones:
            folder.save(layer, one)

"""Products by Triton's interpreter, in every shape that may be tried: for `interpret`."""

import os
import tempfile
from pathlib import Path

import torch

from bitplan.kernels import arranged_for, reference_of
from bitplan.kernels.gpu import launch, trials
from bitplan.kernels.gpu.shapes import Device
from interpreted import error, weight_of

TRIALS = "trials of "
"""What a name of a scheme follows."""


def with_trials(name: str) -> dict:
    """Errors of the product in the last shape that is tried, and what the file then holds."""
    launch.device_of = lambda device: Device(multiprocessors=2)
    weight = weight_of(name, 200, 2048)
    triton = arranged_for(weight.scheme, "triton")
    arranged = triton.arrange(weight.tensors, weight.scheme, 2048)
    inputs = torch.randn(5, 2048, generator=torch.Generator().manual_seed(1)).bfloat16()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BITPLAN_CACHE"], os.environ[trials.AUTOTUNE] = folder, "1"
        trials.file_of.cache_clear()
        trials._read.clear()
        tried = []

        def seconds_of(run) -> float:
            run()
            tried.append(run)
            return 1 / len(tried)

        trials.seconds_of = seconds_of
        product = triton.linear(inputs, arranged, weight.scheme)
        count = len(tried)
        again = triton.linear(inputs, arranged, weight.scheme)
        [file] = (Path(folder) / "tuned").iterdir()
        found = {"tried": count, "again": len(tried) - count, "kept": file.read_text()}
    expected = reference_of(weight.scheme).linear(inputs, weight.tensors, weight.scheme)
    return found | {
        "error": error(product, inputs, weight),
        "reference": error(expected, inputs, weight),
        "same": bool((product == again).all()),
    }

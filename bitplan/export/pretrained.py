"""What `from_pretrained` of transformers needs to load a folder that `save` wrote."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitplan.apply import arrange_layers, pack_caches_of, pack_unit, run_experts
from bitplan.errors import ModelError
from bitplan.export.checkpoint import take, units_of_plan
from bitplan.schema import Kind, Plan
from bitplan.unserved import check_kernels


def check_places(device_map: Any, files: Sequence[str]) -> None:
    """Raise `ModelError` where a model cannot be kept where it is to be, before it is read.

    A map that is not made yet, such as "auto", is left for later.
    """
    if not isinstance(device_map, dict):
        return
    _refuse_offloaded(device_map)
    places = set(device_map.values())
    devices = {torch.device("cuda", p) if isinstance(p, int) else torch.device(p) for p in places}
    are_cuda = torch.cuda.is_available() and all(device.type == "cuda" for device in devices)
    if not are_cuda:
        return
    needed = sum(tensor.nbytes for tensor in _shapes(files).values())
    free = sum(torch.cuda.mem_get_info(device)[0] for device in devices)
    if needed > free:
        names = ", ".join(sorted(map(str, devices)))
        raise ModelError(
            f"The model takes {needed / 1e9:.2f} GB, and {names} has {free / 1e9:.2f} GB free. "
            'Free memory there, load it with device_map="cpu", or make a plan with a smaller '
            "budget."
        )


def prepare(model: Any, settings: Any, files: Sequence[str]) -> None:
    """Put packed layers without memory in place of dense ones: as the files say they are.

    Raises `ModelError` where files and plan do not agree.
    """
    plan = Plan.from_json(json.dumps(settings.plan))
    folder = Path(files[0]).parent if files else Path()
    state = _shapes(files)
    units, sizes = units_of_plan(plan)
    units = [unit for unit in units if unit.layer.parameter not in state]
    for unit in units:
        stacks = [take(folder, state, stack, sizes) for stack in unit.stacks]
        pack_unit(model, unit, stacks, arrange=False)
    layers = [unit.layer for unit in units]
    if any(layer.kind is Kind.EXPERTS for layer in layers):
        run_experts(model)
    # transformers ties parameters; what is shared here are modules, put in place by `finish`.
    packed = {f"{name}.weight" for layer in layers for name in (layer.name, *layer.tied)}
    model.all_tied_weights_keys = {
        name: source
        for name, source in model.all_tied_weights_keys.items()
        if not {name, source} & packed
    }
    for layer in layers:
        for name in layer.tied:
            del model.get_submodule(name).weight
    buffers = {name for name, _ in model.named_buffers()} - set(model.state_dict())
    model._keys_to_ignore_on_load_unexpected = {
        *(model._keys_to_ignore_on_load_unexpected or ()),
        *(name.replace(".", "[.]") for name in buffers),
    }


def finish(model: Any, settings: Any, files: Sequence[str]) -> Any:
    """Lay packed weights out for the machine, and take computed buffers as they were saved.

    Says once which schemes have no kernel there.
    """
    buffers = dict(model.named_buffers())
    saved = set(model.state_dict())
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in set(opened.keys()) & set(buffers) - saved:
                holder, _, leaf = name.rpartition(".")
                tensor = opened.get_tensor(name).to(buffers[name].device)
                setattr(model.get_submodule(holder), leaf, tensor)
    plan = Plan.from_json(json.dumps(settings.plan))
    for choice in plan.choices:
        for name in choice.layer.tied:
            module = model.get_submodule(name)
            if not hasattr(module, "weight"):
                module.weight = model.get_submodule(choice.layer.name).weight
    check_kernels(((c.layer, c.scheme) for c in plan.choices), model.device)
    return pack_caches_of(arrange_layers(model), plan).requires_grad_(False)


def _refuse_offloaded(device_map: dict[str, Any]) -> None:
    """A packed weight is read where it lies: nothing brings it from elsewhere for each product."""
    places = set(map(str, device_map.values()))
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise ModelError(
            f"The device_map keeps parts of the model on {', '.join(sorted(places))}, but packed "
            "weights are multiplied where they lie. Keep all of it on one kind of device, such as "
            'device_map="cpu", or make a plan with a smaller budget.'
        )


def _shapes(files: Sequence[str]) -> dict[str, Tensor]:
    """All tensors of the files, without their values."""
    found = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                    part = opened.get_slice(name)
                    dtype = _DTYPES[part.get_dtype()]
                    found[name] = torch.empty(part.get_shape(), dtype=dtype, device="meta")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} is truncated or damaged ({error}). Copy it again.") from error
    return found


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

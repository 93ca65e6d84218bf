"""A packed model as transformers knows one, whoever packed it."""

import json
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from bitplan.registered import METHOD
from bitplan.schema import Plan


def tell_transformers(model: nn.Module, plan: Plan) -> nn.Module:
    """Let `save_pretrained` write a packed model as `save` does, if the model has it."""
    if isinstance(model, PreTrainedModel):
        config_class = AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD]
        settings = config_class(plan=json.loads(plan.to_json()), aliases=_aliases(model))
        untyped: Any = model
        untyped.hf_quantizer = AUTO_QUANTIZER_MAPPING[METHOD](settings, pre_quantized=True)
        untyped.config.quantization_config = settings
    return model


def _aliases(model: nn.Module) -> dict[str, str]:
    """The names of tensors that others hold, too, and the first name of each, as `state_of`'s."""
    names: dict[Any, str] = {}
    found = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        storage = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and names.setdefault(storage, name) != name:
            found[name] = names[storage]
    return found

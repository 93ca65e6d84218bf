"""Models packed by a plan that gives each layer the next scheme of a menu."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bitplan.apply import pack_layers
from bitplan.compress import render
from bitplan.models import weight_of
from bitplan.schema import Plan
from plans import MENU, plan_for


@dataclass(frozen=True, kw_only=True)
class Case:
    """A packed model, its plan, and what it says."""

    model: nn.Module
    plan: Plan
    said: Tensor


@torch.no_grad()
def said(model: nn.Module) -> Tensor:
    tokens = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(1))
    arguments = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    output = model(input_ids=tokens, **arguments)
    return output.logits if "logits" in output else output.last_hidden_state


@pytest.fixture(name="said")
def _said() -> Callable[[nn.Module], Tensor]:
    return said


@pytest.fixture
def packed(tiny_model) -> Callable[..., Case]:
    """A packed model by its name in `CONFIGS`, in a dtype, with the schemes of a menu."""

    def pack(name: str, dtype: torch.dtype = torch.float32, menu: tuple[str, ...] = MENU) -> Case:
        model = tiny_model(name, dtype)
        plan = plan_for(model, menu)
        weights = {
            c.layer: render(weight_of(model, c.layer), [c.scheme], quantizer="rtn")[c.scheme]
            for c in plan.choices
        }
        schemes = {choice.layer: choice.scheme for choice in plan.choices}
        pack_layers(model, schemes, lambda layer, _: weights[layer])
        return Case(model=model, plan=plan, said=said(model))

    return pack

"""Packed linears that are called one after another, by Triton's interpreter: for `interpret`.

Each scenario gives what it found: whether outputs are those of each weight by itself, and how many
launches there were of several weights and of single ones, step by step.
"""

import copy
import gc
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch._inductor import config
from transformers import LlamaConfig, LlamaForCausalLM

from bitplan.apply import pack_layers
from bitplan.compress import render
from bitplan.kernels.gpu import joined
from bitplan.models import find_layers
from bitplan.models import weight_of as weight_of_layer
from bitplan.modules import PackedLinear
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Scheme
from interpreted_several import counted

NAMES = ("int4g64", "nf4g64", "binary2g64")


class Attention(nn.Module):
    """Three linears that are given one tensor, and another where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(64, 48), nn.Linear(64, 32)
        self.v_proj = nn.Linear(64, 32, bias=False)

    def forward(self, inputs: Tensor, others: Tensor | None = None) -> list[Tensor]:
        """The three products."""
        others = inputs if others is None else others
        return [self.q_proj(inputs), self.k_proj(others), self.v_proj(others)]


def packed(model: nn.Module, names: tuple[str, ...] = NAMES) -> dict[str, Scheme]:
    """Pack a model for Triton; the scheme of each layer."""
    layers = [layer for layer in find_layers(model) if layer.kind == "linear"]
    schemes = {layer: Scheme.parse(names[at % len(names)]) for at, layer in enumerate(layers)}

    def rendered(layer, scheme):
        return render(weight_of_layer(model, layer), [scheme], quantizer="rtn")[scheme]

    pack_layers(model, schemes, rendered)
    for module in model.modules():
        if isinstance(module, PackedWeight):
            module.lay_out("triton")
    return {layer.name: scheme for layer, scheme in schemes.items()}


def attention() -> Attention:
    torch.manual_seed(0)
    model = Attention().requires_grad_(False)
    packed(model)
    return model


def inputs_of(step: int, tokens: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(1, tokens, 64, generator=generator).half()


def alone(linear: PackedLinear, inputs: Tensor) -> Tensor:
    """What a linear makes for itself."""
    output = linear.weight.multiply(inputs)
    return output if linear.bias is None else output + linear.bias.to(output.dtype)


class Watch:
    """Takes steps, and keeps what each found."""

    def __init__(self, model: Attention) -> None:
        self.model, self.steps, self.same = model, [], True

    def step(self, run: Callable[[], list[Tensor]], expected: Callable[[], list[Tensor]]) -> None:
        """Count the launches of one step, and compare."""
        counts = counted()
        outputs = run()
        found = counts()
        self.steps.append([found["launches"], found["single"]])
        pairs = zip(outputs, expected(), strict=True)
        self.same = self.same and all(torch.equal(one, other) for one, other in pairs)

    def plain(self, inputs: Tensor, others: Tensor | None = None) -> None:
        """A step of the model's own."""
        model = self.model
        of = [inputs, inputs if others is None else others, inputs if others is None else others]
        linears = [model.q_proj, model.k_proj, model.v_proj]
        # Of other objects, so that nothing is shared.
        self.step(
            lambda: model(inputs, others),
            lambda: [alone(one, x.clone()) for one, x in zip(linears, of, strict=True)],
        )

    @property
    def found(self) -> dict:
        return {"same": self.same, "steps": self.steps}


def steps() -> dict:
    watch = Watch(attention())
    for step in range(3):
        watch.plain(inputs_of(step))
    watch.plain(watch_twice := inputs_of(3))
    watch.plain(watch_twice)
    watch.plain(inputs_of(4, tokens=17))
    watch.plain(inputs_of(5).float())
    watch.plain(inputs_of(6))
    return watch.found


def cross_attention() -> dict:
    watch = Watch(attention())
    for step in range(3):
        watch.plain(inputs_of(step), inputs_of(10 + step))
    # What followed once does no longer; and after three times that it does not, it never will.
    for step in range(8):
        watch.plain(inputs_of(step), inputs_of(10 + step) if step % 2 else None)
    return watch.found


def changed_inputs() -> dict:
    watch = Watch(attention())
    watch.plain(inputs_of(0))
    model, x = watch.model, inputs_of(1)

    def run() -> list[Tensor]:
        q = model.q_proj(x)
        x.add_(1)
        return [q, model.k_proj(x), model.v_proj(x)]

    before, after = inputs_of(1), inputs_of(1).add_(1)
    watch.step(
        run,
        lambda: [
            alone(model.q_proj, before),
            alone(model.k_proj, after),
            alone(model.v_proj, after),
        ],
    )
    return watch.found


def changed_weights(change: Callable[[Attention], object]) -> dict:
    watch = Watch(attention())
    watch.plain(inputs_of(0))
    model, x, expected = watch.model, inputs_of(1), []

    def run() -> list[Tensor]:
        expected.append(alone(model.q_proj, x.clone()))
        q = model.q_proj(x)
        change(model)
        expected.extend([alone(model.k_proj, x.clone()), alone(model.v_proj, x.clone())])
        return [q, model.k_proj(x), model.v_proj(x)]

    watch.step(run, lambda: expected)
    watch.steps.pop()  # what is compared was counted with it
    return watch.found


@torch.no_grad()
def scale(model: Attention) -> None:
    model.k_proj.weight.grid.mul_(2)


def load(model: Attention) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["k_proj.weight.scale"] *= 2
    model.load_state_dict(state)


@torch.no_grad()
def replace(model: Attention) -> None:
    weight = model.k_proj.weight
    weight.grid = nn.Parameter(weight.grid * 2, requires_grad=False)


def hooks() -> dict:
    watch = Watch(attention())
    watch.plain(inputs_of(0))
    handle = watch.model.q_proj.register_forward_hook(lambda *of: of[-1].zero_())
    x = inputs_of(1)
    linears = [watch.model.k_proj, watch.model.v_proj]
    watch.step(lambda: watch.model(x)[1:], lambda: [alone(linear, x.clone()) for linear in linears])
    handle.remove()
    watch.model.k_proj.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
    for step in range(2, 6):
        x = inputs_of(step)
        watch.step(
            lambda x=x: watch.model(x)[1:],
            lambda x=x: [alone(linears[0], x * 2), alone(linears[1], x.clone())],
        )
    return watch.found


def adapters() -> dict:
    import peft

    model, watch = attention(), None
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    settings._register_custom_module({PackedLinear: peft.tuners.lora.Linear})
    adapted = peft.inject_adapter_in_model(settings, model).half()
    for module in adapted.modules():
        if isinstance(module, PackedWeight):
            module.lay_out("triton")
    watch = Watch(adapted)
    twin = copy.deepcopy(adapted)
    for module in twin.modules():
        if isinstance(module, PackedLinear):
            module.siblings = None
    with torch.no_grad():
        for step in range(3):
            x = inputs_of(step)
            watch.step(lambda x=x: adapted(x), lambda x=x: twin(x))
    x = inputs_of(9)
    watch.step(lambda: adapted(x), lambda: twin(x))  # a gradient is wanted
    sum(output.sum() for output in adapted(x)).backward()
    slopes = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    return watch.found | {"slopes": len(slopes), "any": all(bool(one.any()) for one in slopes)}


def copies() -> dict:
    watch = Watch(attention())
    watch.plain(inputs_of(0))
    keys, model = list(watch.model.state_dict()), watch.model
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    kinds = [copy.deepcopy(model), torch.load(stored, weights_only=False)]
    steps, same = [], True
    for other in kinds:
        assert other.q_proj.siblings is other.v_proj.siblings is not model.q_proj.siblings
        of_copy = Watch(other)
        of_copy.plain(inputs_of(0))
        of_copy.plain(inputs_of(1))
        steps += of_copy.steps
        same = same and of_copy.same and list(other.state_dict()) == keys
    watch.plain(inputs_of(1))
    one = copy.deepcopy(model.q_proj)
    x = inputs_of(2)
    same = same and torch.equal(one(x), alone(one, x))
    return {"same": same and watch.same, "steps": [*steps, *watch.steps]}


def gradients() -> dict:
    watch = Watch(attention())
    for step in range(2):
        watch.plain(inputs_of(step))
    x = inputs_of(2).requires_grad_()
    sum(output.float().sum() for output in watch.model(x)).backward()
    dense = [linear.weight.packed().decode() for linear in watch.model.children()]
    expected = torch.stack([matrix.sum(0) for matrix in dense]).sum(0)
    apart = (x.grad - expected).norm() / (3 * expected.norm())
    with torch.inference_mode():
        x = inputs_of(3)
        watch.step(
            lambda: watch.model(x), lambda: [alone(one, x) for one in watch.model.children()]
        )
    return watch.found | {"apart": apart.item()}


def held() -> dict:
    """What is left where siblings are not called: nothing, once the inputs are gone."""
    watch = Watch(attention())
    watch.plain(inputs_of(0))
    model, x = watch.model, inputs_of(1)
    model.q_proj(x)
    products = model.q_proj.siblings._of_thread.round.products
    before = len(products)
    del x
    gc.collect()
    after = len(model.q_proj.siblings._of_thread.round.products)
    watch.plain(inputs_of(2))
    watch.plain(inputs_of(3))
    return watch.found | {"before": before, "after": after}


def threads() -> dict:
    """Two threads between whose steps another's are, with inputs in common and without."""
    model, same, steps = attention(), True, []
    linears = list(model.children())
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for step in range(4):
            x = inputs_of(step)
            y = x if step % 2 else inputs_of(10 + step)
            counts, found = counted(), []
            for linear in linears:
                found += [first.submit(linear, x).result(), second.submit(linear, y).result()]
            steps.append([*counts().values()])
            of = [(linear, given.clone()) for linear in linears for given in (x, y)]
            pairs = zip(found, of, strict=True)
            same = same and all(torch.equal(output, alone(*what)) for output, what in pairs)
    return {"same": same, "steps": steps}


def compiled() -> dict:
    """A model that inductor compiles, for any number of tokens; a pass that was there runs, too."""
    seen: list[int] = []
    config.post_grad_custom_pre_pass = lambda graph: seen.append(len(graph.nodes))
    joined.install()
    joined.install()
    model, steps, same = attention(), [], True
    dense = nn.Linear(64, 64).half().requires_grad_(False)

    def run(x: Tensor) -> list[Tensor]:
        return [output * 2 for output in model(dense(x) + 1)]

    program = torch.compile(run, fullgraph=True, dynamic=True)
    for tokens in (3, 2, 5, 17):
        x = inputs_of(tokens, tokens)
        counts = counted()
        outputs = program(x)
        steps.append([counts()["launches"], counts()["single"]])
        expected = [alone(one, dense(x) + 1) * 2 for one in model.children()]
        pairs = zip(outputs, expected, strict=True)
        same = same and all(torch.allclose(*pair, rtol=1e-2, atol=1e-2) for pair in pairs)
    return {"same": same, "steps": steps, "passes": len(seen)}


def llama() -> dict:
    """How far a model is from its decoded weights, step by step, and its launches."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 97}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.15)
    model, twin = model.half(), copy.deepcopy(model).double()
    packed(model, ("int4g32", "nf4g32", "int3g32s", "int8s", "mxfp4"))
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            twin.get_submodule(name).weight.copy_(module.weight.packed().decode())
    steps, errors = [], []
    tokens = torch.tensor([[5, 9, 40, 7]])
    for step in range(3):
        counts = counted()
        found, expected = model(tokens + step).logits, twin(tokens + step).logits
        counted_now = counts()
        steps.append([counted_now["launches"], counted_now["single"]])
        errors.append(((found - expected).norm() / expected.norm()).item())
    return {"error": max(errors), "steps": steps}


SCENARIOS = {
    "steps": steps,
    "cross_attention": cross_attention,
    "changed_inputs": changed_inputs,
    "scaled": lambda: changed_weights(scale),
    "loaded": lambda: changed_weights(load),
    "replaced": lambda: changed_weights(replace),
    "laid_out": lambda: changed_weights(lambda model: model.k_proj.weight.lay_out("reference")),
    "hooks": hooks,
    "adapters": adapters,
    "copies": copies,
    "gradients": gradients,
    "held": held,
    "threads": threads,
    "compiled": compiled,
    "llama": llama,
}

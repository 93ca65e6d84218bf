import copy

import pytest
import torch
from torch import Tensor, nn

from bitplan.composed import hold
from bitplan.compress import render
from bitplan.errors import InputError
from bitplan.formats import MATRIX_SCALE, Packed
from bitplan.kernels.native import dot
from bitplan.modules import PackedConvolution, PackedEmbedding, PackedLinear
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Scheme

REFERENCE = ["ternary2g16d", "binary2g16d", "binary2g16+2:4"]
COMPILED = ("cpu", "dot")
"""Which of them depends on the processor."""

CPU = ["int2g32", "int3", "int5g64s", "int8g32", "int4g16", "int4g32d", "int4g32", "int8s", "sign"]
CPU += ["fp8g64", "nf4g16d", "mxfp4", "nvfp4", "nf4", "bfp4g16", "binary2g32", "ternaryg16"]
CPU += ["ternary2g16", "bitmod3g16", "int4g16+2:4", "int3+50%", "nf4g16+1:4"]
CONVOLVED = ["int3", "int4g32", "int8s", "bf16", "nvfp4", "mxfp4", "nf3g16", "int4g16+50%"]
FLOAT = ["bf16", "fp16", "fp32"]
# RMS(error) / RMS(expected): measured, and doubled.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


def packed(name: str, *shape: int) -> Packed:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def held(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> PackedWeight:
    """A weight in the layout of its fastest implementation."""
    weight = PackedWeight(packed(name, *shape), compute_dtype=dtype)
    weight.arrange()
    return weight


def tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", REFERENCE + CPU + FLOAT)
def test_a_linear_layer_multiplies_and_adds(name, bias, dtype):
    dense = nn.Linear(64, 48, bias=bias)
    layer = PackedLinear(held(name, 48, 64, dtype=dtype), dense.bias)
    assert (layer.weight.implementation in COMPILED) == (name in CPU)
    assert (layer.in_features, layer.out_features) == (64, 48)
    weight = packed(name, 48, 64).decode().double()
    for shape in [(64,), (3, 64), (2, 5, 64), (0, 64), (4, 128)]:
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        inputs = inputs[..., ::2] if shape[-1] == 128 else inputs
        expected = nn.functional.linear(
            inputs.double(), weight, dense.bias.double() if bias else None
        )
        output = layer(inputs)
        assert output.dtype == dtype
        assert output.shape == expected.shape
        if output.numel():
            assert relative_error(output, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["int3", "int4g32", "int8s", "bf16"])
@pytest.mark.parametrize("features", [63, 65, 56, 1])
def test_inputs_of_another_width_are_refused(name, features):
    layer = PackedLinear(held(name, 48, 64), None)
    with pytest.raises(InputError, match=rf"have {features} features.*takes 64"):
        layer(torch.zeros(2, features))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("name", ["int4g32", "binary2g16d", "nf4", "bf16", "int4g32+r8"])
def test_products_with_what_is_no_float_are_refused(name, dtype):
    scheme = Scheme.parse(name)
    weight = hold(
        render(torch.randn(48, 64), [scheme], quantizer="rtn")[scheme], compute_dtype=torch.bfloat16
    )
    weight.arrange()
    with pytest.raises(InputError, match=rf"are {str(dtype)[6:]}, but a product takes floating"):
        PackedLinear(weight, None)(torch.ones(2, 64, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8], ids=str)
def test_rows_are_looked_up_by_whole_numbers_alone(dtype):
    embedding = PackedEmbedding(held("int4g32", 48, 64))
    rows = embedding(torch.tensor([1, 0], dtype=torch.int32))
    assert torch.equal(rows, embedding(torch.tensor([1, 0])))
    with pytest.raises(InputError, match=rf"tokens are {str(dtype)[6:]}, but rows are looked up"):
        embedding(torch.tensor([1, 0]).to(dtype))


@pytest.mark.parametrize("name", REFERENCE + CPU + FLOAT)
def test_holds_the_bytes_of_the_format_and_no_more(name):
    layer = held(name, 48, 64)
    assert sum(tensor.nbytes for tensor in tensors_of(layer)) == packed(name, 48, 64).nbytes
    kept = sum(tensor.untyped_storage().nbytes() for tensor in tensors_of(layer))
    assert kept == packed(name, 48, 64).nbytes


@pytest.mark.parametrize("name", REFERENCE + CPU + FLOAT)
def test_state_dict_gives_the_canonical_tensors(name):
    canonical, state = packed(name, 48, 64).tensors, held(name, 48, 64).state_dict()
    assert state.keys() == canonical.keys()
    for key, tensor in canonical.items():
        assert state[key].dtype == tensor.dtype
        assert torch.equal(state[key], tensor)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("name", [*REFERENCE, *CPU, "bf16"])
def test_state_dict_can_be_loaded_in_any_layout(name, assign):
    one = PackedWeight(packed(name, 48, 64), compute_dtype=torch.float32)
    other = PackedWeight(
        Packed(
            scheme=one.scheme,
            shape=(48, 64),
            tensors={key: torch.zeros_like(t) for key, t in packed(name, 48, 64).tensors.items()},
        ),
        compute_dtype=torch.float32,
    )
    other.arrange()
    before = other.implementation
    holder = nn.ModuleDict({"weight": other})
    state = {f"weight.{key}": tensor for key, tensor in one.state_dict().items()}
    holder.load_state_dict(state, assign=assign)
    assert other.implementation == before
    inputs = torch.randn(3, 64)
    torch.testing.assert_close(other.multiply(inputs), one.multiply(inputs), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="Missing key"):
        holder.load_state_dict({"weight.codes": torch.zeros(48, 64)})


@pytest.mark.parametrize("name", [*REFERENCE, *CPU, "bf16"])
def test_copies_are_whole(name):
    layer = PackedLinear(held(name, 48, 64), nn.Parameter(torch.zeros(48)))
    twin = copy.deepcopy(layer)
    inputs = torch.randn(3, 64)
    assert torch.equal(twin(inputs), layer(inputs))
    ours = {tensor.data_ptr() for tensor in tensors_of(layer)}
    assert not ours & {tensor.data_ptr() for tensor in tensors_of(twin)}


@pytest.mark.parametrize("name", [*REFERENCE, *CPU, "bf16"])
def test_another_dtype_changes_what_is_computed_not_what_is_held(name):
    model = nn.Sequential(PackedLinear(held(name, 48, 64), None))
    weight = model[0].weight
    state = copy.deepcopy(weight.state_dict())
    for change, dtype in [
        (model.half, torch.float16),
        (model.double, torch.float64),
        (lambda: model.to(torch.bfloat16), torch.bfloat16),
        (model.float, torch.float32),
    ]:
        change()
        assert weight.dtype == weight.compute_dtype == dtype
        assert weight.state_dict().keys() == state.keys()
        assert all(torch.equal(weight.state_dict()[key], state[key]) for key in state)
        assert (weight.implementation in COMPILED) == (name in CPU)
        assert model(torch.randn(2, 64, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", ["int3g32", "int4g32", "int8s"])
def test_elsewhere_than_on_the_cpu_tensors_are_canonical(name):
    model = nn.Sequential(PackedLinear(held(name, 48, 64), None)).to("meta")
    weight = model[0].weight
    assert weight.device.type == "meta"
    assert weight.implementation == "reference"
    assert {key: t.shape for key, t in weight.state_dict().items()} == {
        key: t.shape for key, t in packed(name, 48, 64).tensors.items()
    }


@pytest.mark.parametrize("name", [*REFERENCE, *CPU])
def test_scales_and_offsets_take_gradients(name):
    weight = PackedWeight(packed(name, 48, 64), compute_dtype=torch.float32).requires_grad_(True)
    inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    (weight.multiply(inputs) * target).sum().backward()
    error = target.t() @ inputs.detach()  # the gradient at the dense weight
    assert inputs.grad is not None
    dense = weight.packed().decode().detach()
    torch.testing.assert_close(inputs.grad, target @ dense, rtol=1e-4, atol=1e-4)
    one = dict(weight.named_parameters())
    for key, parameter in one.items():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        # The weight is linear in scale and offset: a step of one is the slope.
        step = {k: torch.ones_like(p) if k == key else torch.zeros_like(p) for k, p in one.items()}
        tensors = {**weight.packed().tensors, **step}
        slope = Packed(scheme=weight.scheme, shape=(48, 64), tensors=tensors).decode()
        group = weight.scheme.group_size or 64
        expected = (slope * error).unflatten(1, (-1, group)).sum(-1)
        if key == MATRIX_SCALE:
            expected = expected.sum().view(1, 1)
        elif key.endswith("_step"):  # of all groups of a row
            expected = expected.sum(1, keepdim=True)
        assert relative_error(parameter.grad, expected) < 4e-3  # gradients are kept in bfloat16


@pytest.mark.parametrize("name", CPU)
def test_gradients_pass_a_matmul_that_has_none(name):
    layer = PackedLinear(held(name, 48, 64), None)
    assert layer.weight.implementation in COMPILED
    inputs = torch.randn(3, 64, requires_grad=True)
    layer(inputs).sum().backward()
    expected = packed(name, 48, 64).decode().sum(0).expand(3, 64)
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-4, atol=1e-4)
    if not list(layer.parameters()):  # the scales of mxfp4 are powers of two
        return
    layer.requires_grad_(True)
    layer(torch.randn(3, 64)).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)
    with torch.no_grad():
        assert not layer(inputs).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", REFERENCE + CPU + FLOAT)
def test_an_embedding_gives_rows(name, dtype):
    weight = PackedWeight(packed(name, 48, 64), compute_dtype=dtype)
    weight.arrange(lookup=True)
    assert (weight.implementation in COMPILED) == (name in CPU)
    table = PackedEmbedding(weight)
    assert (table.num_embeddings, table.embedding_dim) == (48, 64)
    tokens = torch.tensor([[0, 47, 5], [5, 5, 1]])
    rows = table(tokens)
    assert rows.dtype == dtype
    assert torch.equal(rows, packed(name, 48, 64).decode(dtype)[tokens])
    assert table(tokens[:, :0]).shape == (2, 0, 64)
    with pytest.raises(IndexError):
        table(torch.tensor([-1]))


@pytest.mark.parametrize("factor", [None, 8.0, torch.tensor(25.298221)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_embeddings_factor_is_rounded_as_the_dense_model_rounds_it(factor, dtype):
    table = PackedEmbedding(PackedWeight(packed("int4g32", 48, 64), compute_dtype=dtype), factor)
    tokens = torch.arange(48)
    rows = packed("int4g32", 48, 64).decode(dtype)
    if isinstance(factor, Tensor):
        expected = rows * factor.to(dtype)
        assert "embed_scale" in dict(table.named_buffers())
        assert "embed_scale" not in table.state_dict()
    else:
        expected = rows if factor is None else rows * factor
    assert torch.equal(table(tokens), expected)


def test_a_weight_says_what_it_is():
    assert repr(held("nf4g32", 48, 64)) == "PackedWeight([48, 64], nf4g32, cpu)"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CONVOLVED)
@pytest.mark.parametrize(
    "dense",
    [
        nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(3, 6, 4, stride=4, bias=False),
        nn.Conv1d(5, 6, 3, padding="same"),
    ],
    ids=["all", "patches", "time"],
)
def test_a_convolution_convolves_with_its_decoded_weight(dense, name, dtype):
    weight = packed(name, 6, dense.weight[0].numel())
    layer = PackedConvolution(PackedWeight(weight, compute_dtype=dtype), dense)
    size = (12,) * len(dense.kernel_size)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, dense.in_channels, *size, generator=generator).to(dtype)
    exact = copy.deepcopy(dense).double()
    with torch.no_grad():
        exact.weight.copy_(weight.decode().view(dense.weight.shape))
        found, expected = layer(inputs), exact(inputs.double())
    assert found.dtype is dtype
    assert found.shape == expected.shape
    assert relative_error(found, expected) < TOLERANCE[dtype]
    held = sum(tensor.nbytes for tensor in tensors_of(layer.weight))
    assert held == weight.nbytes


@pytest.mark.parametrize("name", ["int3g32", "ternaryg16", "nf4"])
def test_a_tied_weight_is_saved_once(name):
    weight = held(name, 48, 64)
    model = nn.ModuleDict({"table": PackedEmbedding(weight), "head": PackedLinear(weight, None)})
    for _ in range(2):
        state = model.state_dict()
        for key, tensor in packed(name, 48, 64).tensors.items():
            assert state[f"table.weight.{key}"].data_ptr() == state[f"head.weight.{key}"].data_ptr()
            assert torch.equal(state[f"table.weight.{key}"], tensor)
    before = copy.deepcopy(dict(state))
    with torch.no_grad():
        next(weight.parameters()).mul_(2)
    again = model.state_dict()
    changed = [key for key in state if not torch.equal(again[key], before[key])]
    assert changed == ["table.weight.scale", "head.weight.scale"]


@pytest.mark.parametrize("kernel", ["dot", "cpu", "torch", "reference"])
def test_a_kernel_can_be_asked_for(kernel, monkeypatch):
    if kernel == "dot" and dot.instructions() is None:
        pytest.skip("the processor has no products of bytes")
    inputs = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    expected = inputs.double() @ packed("int4g32", 48, 64).decode().double().t()
    asked = PackedWeight(packed("int4g32", 48, 64), compute_dtype=torch.float32)
    asked.arrange(kernel=kernel)
    monkeypatch.setenv("BITPLAN_KERNEL", kernel)
    for weight in (asked, held("int4g32", 48, 64)):
        assert weight.implementation == kernel
        assert relative_error(weight.multiply(inputs), expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    "name",
    [
        "int2g32",
        "int3",
        "int5g16s",
        "int4g32d",
        "int8s",
        "sign",
        "fp6g32",
        "nf3g16",
        "bfp5",
        "nvfp4",
    ],
)
def test_the_layout_of_a_gpu_takes_as_many_bytes_and_is_saved_as_the_canonical_one(name):
    weight = held(name, 48, 96)
    before = {key: tensor.clone() for key, tensor in weight.state_dict().items()}
    size = sum(tensor.nbytes for tensor in before.values())
    weight.lay_out("triton")
    assert weight.implementation == "triton"
    assert sum(tensor.nbytes for tensor in (*weight.parameters(), *weight.buffers())) == size
    after = weight.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    # Wanted of the CPU before: so it is again, wherever it was moved to and back from.
    weight.arrange()
    assert weight.to(torch.float64).implementation in COMPILED


def test_a_weight_that_was_never_arranged_stays_as_it_is_when_it_moves():
    weight = PackedWeight(packed("int4g32", 48, 64), compute_dtype=torch.float32)
    assert weight.to(torch.float64).implementation == "reference"

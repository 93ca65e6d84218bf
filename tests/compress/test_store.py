from pathlib import Path

import pytest
import torch

from bitplan.compress import Bound, Store, render
from bitplan.errors import InputError, OutputError
from bitplan.formats import Packed
from bitplan.schema import Kind, Layer, Scheme

LAYER = Layer(name="model.layers.0.q_proj", kind=Kind.LINEAR, shape=(5, 70))
NAMES = ["int3g32", "int4s", "int8", "bf16", "fp32"]


def rendered(name: str, layer: Layer = LAYER, seed: int = 0) -> Packed:
    weight = torch.randn(layer.shape, generator=torch.Generator().manual_seed(seed))
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_put_can_be_got(tmp_path, name):
    store, packed = Store(tmp_path / "a" / "b"), rendered(name)
    assert store.get(LAYER, packed.scheme) is None
    store.put(LAYER, packed)
    found = Store(tmp_path / "a" / "b").get(LAYER, packed.scheme)
    assert found is not None
    assert (found.scheme, found.shape) == (packed.scheme, packed.shape)
    assert found.tensors.keys() == packed.tensors.keys()
    assert all(torch.equal(found.tensors[key], packed.tensors[key]) for key in packed.tensors)


def test_experts(tmp_path):
    layer = Layer(name="experts.down_proj", kind=Kind.EXPERTS, shape=(3, 5, 40))
    packed = rendered("int4g32", layer)
    Store(tmp_path).put(layer, packed)
    found = Store(tmp_path).get(layer, packed.scheme)
    assert found is not None
    assert torch.equal(found.decode(), packed.decode())


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 40, -200, -1], ids=lambda n: f"{n} bytes")
def test_a_truncated_file_is_missing_and_goes_away(tmp_path, kept):
    store, packed = Store(tmp_path), rendered("int4g32")
    store.put(LAYER, packed)
    path = store.path(LAYER, packed.scheme)
    path.write_bytes(path.read_bytes()[:kept])
    assert store.get(LAYER, packed.scheme) is None
    assert not path.exists()
    store.put(LAYER, packed)
    assert store.get(LAYER, packed.scheme) is not None


@pytest.mark.parametrize("content", [b"{}", b"not a file of tensors at all", b"\xff" * 500])
def test_garbage_is_missing_and_goes_away(tmp_path, content):
    store, scheme = Store(tmp_path), Scheme.parse("int4g32")
    path = store.path(LAYER, scheme)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert store.get(LAYER, scheme) is None
    assert not path.exists()


def test_a_file_of_another_shape_is_missing_and_goes_away(tmp_path):
    store = Store(tmp_path)
    other = LAYER.model_copy(update={"shape": (5, 90)})
    packed = rendered("int4g32", other)
    store.put(LAYER, packed)
    assert store.get(LAYER, packed.scheme) is None
    assert not store.path(LAYER, packed.scheme).exists()


def test_a_file_is_replaced_whole(tmp_path):
    store = Store(tmp_path)
    old, new = rendered("int4g32"), rendered("int4g32", seed=1)
    store.put(LAYER, old)
    read_before = store.get(LAYER, old.scheme)
    store.put(LAYER, new)
    found = store.get(LAYER, old.scheme)
    assert found is not None
    assert read_before is not None
    assert torch.equal(found.decode(), new.decode())
    # Who read the old file still has it.
    assert torch.equal(read_before.decode(), old.decode())
    assert [file.name for file in store.path(LAYER, old.scheme).parent.iterdir()] == [
        "int4g32.safetensors"
    ]


def test_nothing_is_left_of_a_write_that_failed(tmp_path):
    store, packed = Store(tmp_path), rendered("int4g32")
    blocked = store.path(LAYER, packed.scheme)
    blocked.mkdir(parents=True)  # a folder where the file should go
    with pytest.raises(OutputError, match="Cannot write"):
        store.put(LAYER, packed)
    assert [path.name for path in blocked.parent.iterdir()] == [blocked.name]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        Store(tmp_path / "file" / "store")


def weights_in(workdir: Path) -> set[str]:
    return {path.stem for path in workdir.glob("*/weights-*/*/*.safetensors")}


def test_a_bound_removes_what_was_used_longest_ago(tmp_path):
    free = Store(tmp_path / "m" / "weights-1")
    for name in ("int2g32", "int3g32", "int4g32", "bf16"):
        free.put(LAYER, rendered(name))
    sizes = {path.stem: path.stat().st_size for path in free.folder.rglob("*.safetensors")}
    limit = sum(sizes.values()) - sizes["bf16"]
    bounded = Store(tmp_path / "n" / "weights-1", Bound(tmp_path, limit))
    assert free.get(LAYER, Scheme.parse("int2g32")) is not None  # used again
    bounded.put(LAYER, rendered("int8"))
    # int3g32 was used longest ago; of original weights nothing is counted and nothing goes.
    left = {path.stem for path in free.folder.rglob("*.safetensors")}
    assert left in ({"int2g32", "int4g32", "bf16"}, {"int2g32", "bf16"})
    assert bounded.get(LAYER, Scheme.parse("int8")) is not None
    held = [p.stat().st_size for p in tmp_path.rglob("*.safetensors") if p.stem != "bf16"]
    assert sum(held) <= limit


def test_what_another_process_removes_at_once_is_no_error(tmp_path):
    bound = Bound(tmp_path, 10_000)
    bound.added(tmp_path / "m" / "weights-1" / LAYER.name / "int4g32.safetensors")
    store = Store(tmp_path / "m" / "weights-1", bound)
    store.put(LAYER, rendered("int4g32"))
    assert store.get(LAYER, Scheme.parse("int4g32")) is not None


def test_a_bound_smaller_than_a_weight_keeps_none(tmp_path):
    store = Store(tmp_path / "m" / "weights-1", Bound(tmp_path, 10))
    packed = rendered("int4g32")
    store.put(LAYER, packed)
    assert weights_in(tmp_path) == set()
    with pytest.raises(InputError, match=r"weight of model\.layers\.0\.q_proj in int4g32 was rem"):
        store.require(LAYER, packed.scheme)

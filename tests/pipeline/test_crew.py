"""Plans measured by several processes: the same numbers, one copy of the weights, no trace left."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from bitplan import Budget, allocate, describe
from bitplan.calibration import Sizes, TokenSets
from bitplan.evaluate import divergence
from bitplan.models import Inputs, find_layers, read_outputs, weight_of
from bitplan.pipeline import Settings, Workspace, crew
from bitplan.pipeline.crew import Crew, crew_for
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.shared_model import NotShared, bytes_of, open_copy, share
from bitplan.pipeline.stages import measure_in
from bitplan.progress import quiet
from bitplan.schema import Scheme
from bitplan.sensitivity import AbstractEngine, choose_workers, get_engine
from bitplan.sensitivity.engines.processes import Processes


@pytest.fixture(autouse=True)
def _any_processor():
    """Other processes compute as bitplan does on this one, and so does this."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Three batches of five sequences."""
    monkeypatch.setattr(divergence, "BATCH_TOKENS", 128)


SCHEMES = ["int2", "int3", "int4", "int8s"]


@pytest.fixture(scope="module")
def engine() -> Iterator[AbstractEngine]:
    """Two workers for all tests here: to start them takes seconds."""

    class Kept(Processes):
        def stop(self) -> None:
            pass

    found = Kept(workers=2)
    yield found
    super(Kept, found).stop()


@contextlib.contextmanager
def judge_of(model, workdir, told=quiet, **more) -> Iterator[Judge]:
    generator = torch.Generator().manual_seed(1)
    calibration = torch.randint(3, 96, (4, 16), generator=generator)
    search, held_out = torch.randint(3, 96, (2, 5, 64), generator=generator)
    tokens = TokenSets(calibration=calibration, search=search, held_out=held_out, source="given")
    workspace = Workspace.open(model, workdir=workdir)
    settings = Settings(
        schemes=SCHEMES, calibration=tokens, quantizer="rtn", estimator="weight_error", **more
    )
    _, meter, _ = measure_in(workspace, settings)
    sets = {"search": search, "held_out": held_out}
    judge = Judge(workspace=workspace, meter=meter, tokens=sets, progress=told)
    with judge.borrowed():
        yield judge


@contextlib.contextmanager
def with_crew(judge: Judge, engine: AbstractEngine, **more) -> Iterator[Crew]:
    space = judge.workspace
    found = Crew(
        engine, space.model, space.layers, judge._current, judge.packed, space.folder, **more
    )
    judge._crew, judge._is_alone = found, False
    yield found


def plans_of(judge: Judge, count: int = 5) -> list[dict[str, Scheme]]:
    random = np.random.default_rng(0)
    return [
        {layer.name: Scheme.parse(str(random.choice(SCHEMES))) for layer in judge.workspace.layers}
        for _ in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
def test_the_same_numbers_as_one_after_another(name, dtype, tiny_model, tmp_path, engine):
    model = tiny_model(name, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with judge_of(model, tmp_path / "alone", engine="serial") as judge:
        plans = plans_of(judge)
        alone = judge.measure_many(plans, "search")
        some = judge.measure_many(plans[:2], "search", [4, 1])
        held_out = judge.measure(plans[0], "held_out")
    with (
        judge_of(model, tmp_path / "crew", engine="serial") as judge,
        with_crew(judge, engine, copies=2),
    ):
        model_before = weight_of(model, judge.workspace.layers[0]).clone()
        found = judge.measure_many(plans, "search")
        again = judge.measure_many([plans[3], plans[3], plans[0]], "search", [4, 1])
        assert torch.equal(weight_of(model, judge.workspace.layers[0]), model_before)
        found_some = judge.measure_many(plans[:2], "search", [4, 1])
        found_held_out = judge.measure(plans[0], "held_out")
    every = zip([*alone, *some, held_out], [*found, *found_some, found_held_out], strict=True)
    for one, other in every:
        np.testing.assert_array_equal(one.kl, other.kl)
        np.testing.assert_array_equal(one.nll, other.nll)
    np.testing.assert_array_equal(again[2].kl, some[0].kl)
    np.testing.assert_array_equal(again[0].kl, again[1].kl)
    assert len({one.kl.tobytes() for one in alone}) == len(plans)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not list((tmp_path / "crew").rglob("*shared-*"))


def test_cached_keys_and_values_are_rounded_there_too(tiny_model, tmp_path, engine):
    model = tiny_model("llama", torch.bfloat16)
    cached = [f"model.layers.{i}.self_attn.{kind}" for i in (0, 1) for kind in ("keys", "values")]
    with judge_of(model, tmp_path / "alone", engine="serial", context=16) as judge:
        [plain] = plans_of(judge, 1)
        plan = plain | dict.fromkeys(cached, Scheme.parse("int2"))
        alone, without = (judge.measure(each, "search").kl for each in (plan, plain))
    with (
        judge_of(model, tmp_path / "crew", engine="serial", context=16) as judge,
        with_crew(judge, engine),
    ):
        found = judge.measure(plan, "search").kl
    np.testing.assert_array_equal(found, alone)
    assert (alone != without).all()


def test_an_interrupt_between_batches_leaves_no_result_of_another_plan(
    tiny_model, tmp_path, engine
):
    model = tiny_model("llama", torch.bfloat16)
    stops = {2}

    def told(stage: str, done: int, total: int) -> None:
        if stage == "evaluate" and done in stops:
            stops.discard(done)
            raise KeyboardInterrupt

    with judge_of(model, tmp_path / "alone", engine="serial") as judge:
        plans = plans_of(judge)
        alone = judge.measure_many(plans, "search")
    with (
        judge_of(model, tmp_path / "crew", told, engine="serial") as judge,
        with_crew(judge, engine, copies=3),
    ):
        with pytest.raises(KeyboardInterrupt):
            judge.measure_many(plans[::-1], "search")
        found = judge.measure_many(plans, "search")
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one.kl, other.kl)


def test_who_has_not_got_the_model_leaves_it_to_this_process(
    tiny_model, tmp_path, monkeypatch, caplog
):
    model = tiny_model("llama", torch.bfloat16)
    monkeypatch.setattr(crew.socket, "gethostname", iter("abcdefghijklmnopqrstuvwxyz").__next__)
    with judge_of(model, tmp_path, engine="serial") as judge:
        plans = plans_of(judge, 2)
        with with_crew(judge, get_engine("serial")) as found:
            sequences = list(range(5))
            none = list(found.measure(plans, judge.reference("search"), sequences, quiet))
            assert none == [None, None]
            known = judge.measure_many(plans, "search")
            assert judge._is_alone  # nor is anybody asked again
            assert "cannot see the model's weights" in caplog.text
    assert all(np.isfinite(one.kl).all() for one in known)
    assert (known[0].kl != known[1].kl).all()


class TestSharedModel:
    @pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "mixtral"])
    def test_a_copy_says_what_the_model_says(self, name, tiny_model, tmp_path):
        model = tiny_model(name, torch.bfloat16)
        share(model, tmp_path / "model", [tmp_path / "a", tmp_path / "b"])
        first = open_copy(tmp_path / "model", tmp_path / "a")
        second = open_copy(tmp_path / "model", tmp_path / "a")
        other = open_copy(tmp_path / "model", tmp_path / "b")
        assert (tmp_path / "model").stat().st_size < bytes_of(model) + 200_000
        inputs = Inputs.of(torch.arange(3, 35).reshape(2, 16))
        with torch.no_grad():
            said = read_outputs(model, inputs).values
            assert torch.equal(read_outputs(first, inputs).values, said)
            for layer in find_layers(model):
                weight_of(first, layer).mul_(0.5)
            changed = read_outputs(first, inputs).values
            assert torch.equal(read_outputs(second, inputs).values, changed)
            assert torch.equal(read_outputs(other, inputs).values, said)
        assert not torch.equal(changed, said)

    def test_what_cannot_be_shared_is_told(self, tmp_path):
        def refused(model: nn.Module, match: str) -> None:
            with pytest.raises(NotShared, match=match):
                share(model, tmp_path / "model", [tmp_path / "a"])

        hooked = nn.Linear(2, 2)
        hooked.register_forward_hook(lambda *_: None)
        refused(hooked, "cannot be sent")
        overlapping = nn.Linear(4, 4)
        overlapping.bias = nn.Parameter(overlapping.weight.data[1])
        refused(overlapping, "share some of their elements")
        turned = nn.Linear(4, 3)
        turned.weight = nn.Parameter(torch.ones(3, 4).T)
        refused(turned, "not contiguous")
        script = type("Net", (nn.Linear,), {"__module__": "__main__"})
        refused(script(2, 2), "is of a script")

    def test_a_place_that_cannot_be_written_to(self, tmp_path):
        with pytest.raises(NotShared, match=r"cannot be written to .*: No such file"):
            share(nn.Linear(2, 2), tmp_path / "no" / "model", [tmp_path / "no" / "a"])


CHOICES = {
    "few threads": (("auto", None, 1, 10**12, 8), ("processes", 8)),
    "some threads": (("auto", None, 4, 10**12, 8), ("processes", 2)),
    "all threads": (("auto", None, 8, 10**12, 8), ("serial", 1)),
    "little work": (("auto", None, 1, 10**9, 8), ("serial", 1)),
    "little work that is asked for": (("processes", None, 1, 10**9, 8), ("processes", 8)),
    "fewer workers": (("processes", 3, 1, 10**12, 8), ("processes", 3)),
    "more workers than cores": (("processes", 99, 2, 10**12, 8), ("processes", 4)),
    "one core": (("processes", 4, 1, 10**12, 1), ("serial", 1)),
    "serial": (("serial", None, 1, 10**12, 8), ("serial", None)),
    "ray": (("ray", 3, 8, 10**12, 8), ("ray", 3)),
}


@pytest.mark.parametrize(("given", "expected"), CHOICES.values(), ids=CHOICES)
def test_who_measures_plans(given, expected):
    engine, workers, threads, work, count = given
    found = choose_workers(engine, workers=workers, threads=threads, work=work, count=count)
    assert found[:2] == expected
    assert found[2].endswith(".")


@pytest.mark.parametrize("reason", ["memory", "model"])
def test_no_crew_where_the_model_cannot_be_shared(
    reason, tiny_model, tmp_path, monkeypatch, caplog
):
    model = tiny_model("llama", torch.bfloat16)
    if reason == "memory":
        monkeypatch.setattr(crew, "room_bytes", lambda: 1.0)
    else:
        model.register_forward_hook(lambda *_: None)
    with caplog.at_level("INFO"), judge_of(model, tmp_path, engine="serial") as judge:
        space = judge.workspace
        monkeypatch.setattr(crew, "choose_workers", lambda *_, **__: ("processes", 2, ""))
        assert (
            crew_for(
                *(model, space.layers, judge._current, judge.packed, space.folder),
                engine="processes",
                workers=2,
                tokens=1,
            )
            is None
        )
    assert "Plans are measured one after another" in caplog.text
    assert not list(tmp_path.rglob("*shared-*"))


def test_plans_are_the_same_byte_for_byte_whoever_measures_them(tiny_model, tmp_path, monkeypatch):
    model, started = tiny_model("llama", torch.bfloat16), []
    measure = Crew.measure

    def watched(self, assignments, *more):
        started.append(len(assignments))
        return measure(self, assignments, *more)

    monkeypatch.setattr(Crew, "measure", watched)
    size = describe(model)
    budget = Budget(bytes=int(0.7 * size.smallest_bytes + 0.3 * size.bytes))
    texts = set()
    for engine in ("serial", "processes"):
        monkeypatch.setattr(crew, "choose_workers", lambda *_, e=engine, **__: (e, 2, "So."))
        plan = allocate(
            model,
            budget,
            workdir=tmp_path / engine,
            sizes=Sizes(calibration=4, search=4, held_out=4, length=48),
            schemes=SCHEMES,
            refine_tokens=1_500,
        )
        texts.add(plan.to_json())
        assert bool(started) == (engine == "processes")
    assert len(texts) == 1
    assert max(started) > 1  # several plans at a time

"""The report: figures that are right, a page that stands alone and can be read by everyone."""

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console

from bitplan.allocator import explain
from bitplan.errors import OutputError
from bitplan.models.classify import Why
from bitplan.models.describe import Description, Rest, StoredLayer
from bitplan.report import (
    description_table,
    evidence_table,
    explanation_tables,
    plan_table,
    write_report,
)
from bitplan.report.figures import frontier_svg, series
from bitplan.report.groups import group, group_names, whole
from bitplan.report.html import heatmap, render, verdict
from bitplan.report.tables import reference_bytes
from bitplan.schema import (
    Choice,
    Cost,
    CostTable,
    Evidence,
    Kind,
    Layer,
    Measured,
    Plan,
    Provenance,
    Row,
    Scheme,
)

SCHEMES = ("int2g64", "int3g64", "int4g64", "int8", "bf16")
SHAPES = {
    "self_attn.q_proj": (24, 40),
    "self_attn.k_proj": (8, 40),
    "self_attn.v_proj": (8, 40),
    "self_attn.o_proj": (40, 24),
    "mlp.gate_proj": (72, 40),
    "mlp.up_proj": (72, 40),
    "mlp.down_proj": (40, 72),
}
BLOCKS = 5
PROVENANCE = Provenance(
    model="a <tiny> & random model",
    model_digest="0" * 64,
    dtype="bfloat16",
    calibration="text <made> for a test",
    calibration_digest="1" * 64,
    calibration_tokens=8192,
    estimator="hessian",
    quantizer="gptq",
    seed=0,
    versions={"bitplan": "0.1.0"},
)


def make_layers():
    yield Layer(name="model.embed_tokens", kind=Kind.EMBEDDING, shape=(300, 40), tied=("lm_head",))
    for block in range(BLOCKS):
        for name, shape in SHAPES.items():
            yield Layer(
                name=f"model.layers.{block}.{name}", kind=Kind.LINEAR, shape=shape, block=block
            )


def make_cost(layer, name):
    scheme = Scheme.parse(name)
    loss = 0.0 if scheme.is_float else 0.4 * 4.0 ** (1 - scheme.bits) * layer.shape[0] / 40
    size = math.ceil(layer.parameters * scheme.bits / 8) + (
        0 if scheme.is_float else layer.shape[0] * 4
    )
    return Cost(scheme=scheme, bytes=size, loss=loss, standard_error=loss / 10)


def make_table(layers=None):
    rows = tuple(
        Row(layer=layer, costs=tuple(make_cost(layer, name) for name in SCHEMES))
        for layer in (layers or make_layers())
    )
    return CostTable(provenance=PROVENANCE, rest_bytes=880, rows=rows)


def make_plan(table, choose, evidence=None, solver="test"):
    """The plan that gives the row at `index` the cost at `choose(index)`."""
    picked = [(row.layer, row.costs[choose(index)]) for index, row in enumerate(table.rows)]
    choices = tuple(
        Choice(layer=layer, scheme=cost.scheme, bytes=cost.bytes, loss=cost.loss)
        for layer, cost in picked
    )
    size = table.rest_bytes + sum(choice.bytes for choice in choices)
    predicted = sum(choice.loss for choice in choices)
    return Plan(
        provenance=table.provenance,
        budget_bytes=size + 100,
        bytes=size,
        rest_bytes=table.rest_bytes,
        predicted_kl=predicted,
        lower_bound=predicted,
        gap=0.0,
        status="Proven optimal.",
        solver=solver,
        evidence=evidence,
        choices=choices,
    )


def make_evidence(kl=0.08, uniform_kl=0.1):
    def measured(name, value, size=70_000):
        return Measured(name=name, bytes=size, kl=value, standard_error=0.004, perplexity=15.25)

    return Evidence(
        tokens=8192,
        tokens_digest="2" * 64,
        reference_perplexity=12.97,
        plan=measured("plan", kl),
        uniform=None if uniform_kl is None else measured("uniform int3g64", uniform_kl),
        others=(measured("solved", 0.085), measured("uniform int2g64", 0.9, 50_000)),
    )


def mixed(index):
    return (index * 7) % 4


@pytest.fixture
def table():
    return make_table()


@pytest.fixture
def plan(table):
    return make_plan(table, mixed, make_evidence())


@pytest.fixture
def page(plan, table):
    return render(plan, table, *predictions(table))


def predictions(table):
    best = [make_plan(table, lambda _, k=k: k) for k in range(5)]
    return best, [make_plan(table, lambda _, k=k: k, solver="uniform") for k in (1, 2)]


def shown(view, width=80):
    console = Console(width=width, record=True, color_system=None, file=None, quiet=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_a_transform_is_named_where_there_is_one(plan, table, page):
    assert "folded into the weights" not in page
    made = plan.provenance.model_copy(update={"transform": "awq"})
    transformed = plan.model_copy(update={"provenance": made})
    assert "<dt>folded into the weights</dt><dd>awq</dd>" in render(
        transformed, table, *predictions(table)
    )


# Groups


def test_groups_are_named_by_the_last_word_and_add_up(plan, table):
    groups = group(plan, table)
    assert [part.name for part in groups] == [
        "embedding",
        *(name.split(".")[-1] for name in SHAPES),
    ]
    assert all(sum(part.counts.values()) == BLOCKS for part in groups[1:])
    total = whole(groups)
    assert total.bytes + plan.rest_bytes == plan.bytes
    assert total.loss == pytest.approx(plan.predicted_kl)
    assert total.standard_error == pytest.approx(plan.predicted_kl / 10)


def test_group_names_tell_ambiguous_paths_apart():
    paths = ["attn.c_attn", "attn.c_proj", "mlp.c_proj"]
    layers = [
        Layer(name=f"transformer.h.{block}.{path}", kind=Kind.CONV1D, shape=(4, 4), block=block)
        for block in range(2)
        for path in paths
    ]
    layers += [
        Layer(name=f"transformer.{name}", kind=Kind.EMBEDDING, shape=(4, 4))
        for name in ("wte", "wpe")
    ]
    names = group_names(layers)
    assert names["transformer.h.1.attn.c_attn"] == "c_attn"
    assert names["transformer.h.1.attn.c_proj"] == "attn.c_proj"
    assert names["transformer.h.0.mlp.c_proj"] == "mlp.c_proj"
    assert {names["transformer.wte"], names["transformer.wpe"]} == {"wte", "wpe"}


def test_single_experts_share_a_group():
    layers = [
        Layer(name=f"model.layers.3.moe.experts.{n}.w1", kind=Kind.LINEAR, shape=(4, 4), block=3)
        for n in range(4)
    ]
    assert set(group_names(layers).values()) == {"w1"}


# Tables


def test_plan_table_counts_schemes_and_ends_with_the_whole_model(plan, table):
    text = shown(plan_table(plan, table))
    counts = group(plan, table)[1].counts
    row = re.search(r"^ *q_proj(.*)$", text, flags=re.MULTILINE)[1].split()
    assert row[:4] == [str(counts[name]) for name in ("int2g64", "int3g64", "int4g64", "int8")]
    assert re.search(r"not compressed\s.*880 bytes", text)
    assert f"{plan.bytes / 1000:.2f} kB" in text
    assert f"{plan.predicted_kl:.4f}" in text
    assert f"± {plan.predicted_kl / 10:.4f}" in text


def test_plan_table_of_many_schemes_counts_by_bits():
    layers = [
        Layer(name=f"m.layers.{n}.w", kind=Kind.LINEAR, shape=(8, 8), block=n) for n in range(9)
    ]
    names = ("int2", "int3", "int4", "int5", "int6", "int8", "int4g64", "int4g32", "bf16")
    rows = tuple(
        Row(layer=layer, costs=(make_cost(layer, name),))
        for layer, name in zip(layers, names, strict=True)
    )
    table = CostTable(provenance=PROVENANCE, rest_bytes=880, rows=rows)
    text = shown(plan_table(make_plan(table, lambda _: 0), table))
    assert "g64" not in text
    assert re.search(r"^ *w +1 +1 +3 +1 +1 +1 +1 ", text, flags=re.MULTILINE)


@pytest.mark.parametrize("width", [80, 200])
def test_tables_fit_the_terminal(plan, table, width):
    for view in (plan_table(plan, table), evidence_table(plan)):
        lines = shown(view, width).splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)


def test_a_plan_with_a_cache_says_so_in_table_and_page():
    keys = Layer(name="model.layers.0.self_attn.keys", kind=Kind.KEYS, shape=(80, 16), block=0)
    table = make_table([*make_layers(), keys])
    made = table.provenance.model_copy(update={"context": 40, "batch": 2})
    table = table.model_copy(update={"provenance": made})
    plan = make_plan(table, mixed)
    text = shown(plan_table(plan, table))
    assert "model and cache" in text
    assert "whole model" not in text
    assert re.search(r"^ *keys ", text, re.MULTILINE)
    page = render(plan, table, [plan], [])
    assert f"{plan.cache_bytes:,} bytes for 40 tokens × 2" in page
    assert "model and cache" in page


def test_evidence_table_sets_plan_beside_uniform_and_reference(plan):
    text = shown(evidence_table(plan))
    order = [text.index(name) for name in ("reference", "uniform int3g64", "plan  ", "solved")]
    assert order == sorted(order)
    assert "0.0800 ± 0.0040" in text
    assert "12.97" in text
    assert "8,192 tokens" in text


def test_evidence_table_says_when_nothing_was_measured(table):
    text = shown(evidence_table(make_plan(table, mixed)))
    assert "Not measured" in text
    assert "predicted" in text


@pytest.mark.parametrize(
    ("dtype", "width"), [("bfloat16", 2), ("torch.float32", 4), ("float8_odd", None)]
)
def test_reference_bytes(plan, dtype, width):
    changed = plan.model_copy(
        update={"provenance": plan.provenance.model_copy(update={"dtype": dtype})}
    )
    parameters = sum(choice.layer.parameters for choice in plan.choices)
    assert reference_bytes(changed) == (None if width is None else 880 + width * parameters)


def make_description():
    """Of the layers of `make_layers`, and some that stay as they are."""
    layers = tuple(
        StoredLayer(
            layer=layer.model_copy(update={"fuse": f"{layer.block}.qk"})
            if layer.name.endswith(("q_proj", "k_proj"))
            else layer,
            dtype="bfloat16",
            bytes=2 * layer.parameters,
        )
        for layer in make_layers()
    )
    norms = tuple(
        Rest(name=f"norm{n}", shape=(40,), dtype="float32", bytes=160, why=Why.NORM)
        for n in range(3)
    )
    parameters = sum(stored.layer.parameters for stored in layers) + 120
    size = 480 + sum(stored.bytes for stored in layers)
    return Description(
        name="tiny",
        architecture="TinyForCausalLM",
        dtype="bfloat16",
        parameters=parameters,
        layers=layers,
        rest=norms,
        bytes=size,
        smallest_bytes=size // 8,
        largest_bytes=size,
    )


def test_description_table_groups_layers_and_lists_what_is_left():
    description = make_description()
    lines = shown(description_table(description)).splitlines()
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
    assert "embedding 1 embedding 300 × 40 bfloat16 24.00 kB shared with lm_head" in rows.values()
    assert f"q_proj {BLOCKS} linear 24 × 40 bfloat16 9.60 kB fused with k_proj" in rows.values()
    assert f"v_proj {BLOCKS} linear 8 × 40 bfloat16 3.20 kB" in rows.values()
    assert "not compressed 3 norm float32 480 bytes" in rows.values()
    assert f"whole model {description.bytes / 1000:.2f} kB" in rows.values()
    assert f"{description.parameters:,} parameters" in "".join(lines)
    assert max(map(len, lines)) <= 80


def test_description_table_of_a_model_without_layers():
    description = make_description()
    empty = description.model_copy(update={"layers": (), "bytes": 480, "smallest_bytes": 480})
    assert "There is no layer to compress." in shown(description_table(empty))


# Verdict


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (make_evidence(0.08, 0.1), "20.0% lower than that of uniform int3g64"),
        (make_evidence(0.11, 0.1), "10.0% higher"),
        (make_evidence(0.1, 0.1), "equals"),
        (make_evidence(0.1, -0.001), "no loss at all"),
        (make_evidence(0.1, None), "No uniform plan fits"),
        (None, "Not measured"),
    ],
)
def test_verdict(table, evidence, words):
    assert words in verdict(make_plan(table, mixed, evidence))


# Heat map


def test_heatmap_has_every_layer_in_its_place(plan):
    view = heatmap(plan)
    assert view.blocks == tuple(range(BLOCKS))
    labels = {name: [cell.label for cell in cells] for name, cells in view.rows}
    for choice in plan.choices[1:]:
        row = labels[choice.layer.name.split(".")[-1]]
        assert row[choice.layer.block] == str(choice.scheme.bits)
    assert [name for name, _ in view.apart] == ["embedding"]


def test_heatmap_averages_what_shares_a_cell_and_leaves_gaps():
    layers = [
        Layer(name=f"m.layers.1.experts.{n}.w1", kind=Kind.LINEAR, shape=(8, 8), block=1)
        for n in range(2)
    ]
    layers.append(Layer(name="m.layers.0.dense", kind=Kind.LINEAR, shape=(8, 8), block=0))
    view = heatmap(make_plan(make_table(layers), lambda index: index))
    rows = dict(view.rows)
    assert rows["w1"][0] is None
    assert rows["w1"][1].label == "2.5"
    assert rows["w1"][1].schemes == "1 × int2g64, 1 × int3g64"


# The page


class Page(HTMLParser):
    """Collects the tags, and checks that they nest."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_asks_for_nothing(page):
    parsed = Page(page)
    assert parsed.open == []
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    for _, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_page_escapes_what_it_was_given(page):
    assert "<tiny>" not in page
    assert "a &lt;tiny&gt; &amp; random model" in page
    assert "<made>" not in page


def test_page_has_the_figures(page, plan):
    text = re.sub(r"<[^>]*>", " ", page)
    assert f"{plan.budget_bytes:,} bytes" in text
    assert f"{plan.bytes:,} bytes" in text
    assert "20.0% lower" in text
    assert re.search(r"reference\s+12\.97", text)
    for choice in plan.choices:
        assert choice.layer.name in text
    assert "shared with lm_head" in text


def test_page_has_the_same_bytes_every_time(page, plan, table):
    assert render(plan, table, *predictions(table)) == page
    assert not re.search(r"20\d\d-\d\d-\d\d", page)


def test_page_ignores_the_users_matplotlib_settings(page, plan, table):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "mine"}):
        assert render(plan, table, *predictions(table)) == page
        assert matplotlib.rcParams["svg.hashsalt"] == "mine"


def test_write_report_solves_the_frontier_itself(plan, table, tmp_path):
    path = tmp_path / "made" / "report.html"
    write_report(path, plan, table)
    text = path.read_text(encoding="utf-8")
    assert text.count('<tr><th scope="row">best</th>') >= 10
    for scheme in SCHEMES:
        assert f"uniform {scheme}" in text
    write_report(path, plan, table)
    assert path.read_text(encoding="utf-8") == text


def test_write_report_says_where_it_cannot_write(plan, table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_report(tmp_path / "file" / "report.html", plan, table)


def test_page_of_a_plan_without_evidence(table):
    text = render(make_plan(table, mixed), table, *predictions(table))
    assert "predictions" in text
    assert "Measured KL" not in text


def test_figure_has_a_description_and_no_colours_of_its_own(plan, table):
    svg = frontier_svg(plan, series(plan, *predictions(table)), 'size & "loss"')
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'size & "loss"'
    drawn = set(re.findall(r"(?:stroke|fill): (?!none)([^;\"]+)", svg))
    assert all(color.startswith("var(--") for color in drawn), drawn
    assert "<style" not in svg


def test_figure_shows_zero_and_noise_below_it(table):
    evidence = make_evidence(kl=-0.0001)
    plan = make_plan(table, lambda _: 4, evidence)
    drawn = series(plan, *predictions(table))
    root = ElementTree.fromstring(frontier_svg(plan, drawn, "").replace("xlink:href", "href"))
    labels = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert "0" in labels


@pytest.mark.parametrize("evidence", [make_evidence(), make_evidence(0.1, None), None])
def test_legend_has_what_is_drawn(table, evidence):
    plan = make_plan(table, mixed, evidence)
    best, uniform = predictions(table)
    drawn = series(plan, best, uniform)
    points = sum(len(one.points) for one in drawn)
    measured = 0 if evidence is None else 1 + (evidence.uniform is not None) + len(evidence.others)
    assert points == len(best) + len(uniform) + measured
    text = render(plan, table, best, uniform)
    assert all(one.label in text for one in drawn)
    assert ("this plan, measured" in text) == (evidence is not None)


@pytest.mark.parametrize("ratio_of", ["text", "cells"])
def test_colours_have_contrast_in_light_and_in_dark_mode(page, ratio_of):
    blocks = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        if ratio_of == "text":
            pairs = [
                (colors[ink], colors[ground])
                for ink in ("ink", "muted", "plan", "uniform", "other")
                for ground in ("page", "card")
            ]
        else:
            pairs = [(colors[f"step-{n}-ink"], colors[f"step-{n}"]) for n in (2, 3, 4, 5, 6, 8, 16)]
        for ink, ground in pairs:
            assert contrast(ink, ground) >= 4.5, (ink, ground)


def contrast(one, other):
    """Contrast ratio of WCAG 2, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color):
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("width", [80, 120])
def test_explanation_tables_fit_and_tell_the_runner_up(plan, table, width):
    found = explain(table, plan)
    words = list(explanation_tables(found, words=True))
    text = "\n".join(one if isinstance(one, str) else shown(one, width) for one in words)
    assert all(len(line) <= width for one in words[1:4] for line in shown(one, width).split("\n"))
    assert f"{found.bytes:,} bytes of {found.budget_bytes:,}" in text
    for reason in found.reasons:
        assert f"{reason.layers[0]}: {reason.scheme}. {reason.why}" in text
    assert len(list(explanation_tables(found))) == 4

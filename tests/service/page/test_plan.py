"""A job's plan: the budget that moves, the heat map, the layers, and what is taken away."""

import json
import re

import pytest
from playwright.sync_api import expect

from bitplan.allocator import solve
from bitplan.schema import Plan
from costs import table_of


@pytest.fixture
def page(visit, planned):
    page = visit(f"/jobs/{planned}")
    expect(page.locator("#frontier")).to_have_attribute("aria-busy", "false")
    return page


@pytest.fixture
def plan(maker, planned):
    return maker.plan(planned)


def cell_of(page, row, block):
    return page.get_by_role("row", name=re.compile(f"^{row} ")).get_by_role("gridcell").nth(block)


def test_the_plan_is_told_beside_uniform(page, plan):
    figures = page.locator("#figures")
    expect(figures).to_contain_text(f"{plan.predicted_kl:.4f}")
    expect(figures).to_contain_text(f"{plan.evidence.plan.kl:.4f}")
    expect(page.locator("#verdict")).to_contain_text(plan.evidence.uniform.name)
    share = 1 - plan.evidence.plan.kl / plan.evidence.uniform.kl
    expect(page.locator("#verdict")).to_contain_text(f"{100 * share:.1f} % less KL")


def test_the_slider_solves_again_and_tells_what_changes(page, plan):
    slider = page.locator("#budget-range")
    expect(page.locator("#readout")).to_contain_text("no layer changes")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    expect(page.locator("#readout")).to_contain_text(re.compile(r"[1-9]\d* layers? change"))
    expect(page.locator("#readout")).to_contain_text("ms")
    changed = page.locator("td.changed")
    expect(page.locator("#changes")).to_contain_text("→")
    expect(changed.first).to_have_attribute("aria-label", re.compile("was int"))
    layers = page.locator("#layers tbody tr")
    page.get_by_label("Changed only").check()
    expect(layers).to_have_count(changed.count())
    page.get_by_role("button", name="Reset").click()
    expect(changed).to_have_count(0)
    expect(page.locator("#readout")).to_contain_text("as the job solved it")


def test_what_the_slider_shows_is_the_best_plan_of_its_budget(page):
    page.locator("#budget").fill("200")
    expect(page.locator("#readout")).to_contain_text("proven optimal")
    with page.expect_download() as taken:
        page.get_by_role("button", name="Download this plan").click()
    plan = Plan.load(taken.value.path())
    best = solve(table_of(blocks=4), plan.budget_bytes / 1e9)
    assert plan.predicted_kl == pytest.approx(best.predicted_kl)
    assert plan.bytes <= plan.budget_bytes


def test_only_the_newest_answer_is_shown(page):
    """Of a slider that moves far, with answers that take their time."""
    asked = []

    def slowly(route):
        asked.append(json.loads(route.request.post_data)["budget_gb"])
        route.continue_()

    page.route("**/v1/plans", slowly)
    slider = page.locator("#budget-range")
    slider.focus()
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    number = page.locator("#budget")
    expect(page.locator("#readout")).to_contain_text("proven optimal")
    final = float(number.input_value())
    assert asked[-1] * 1e6 == pytest.approx(final, rel=1e-4)  # GB against kB
    assert len(asked) < 40, "every step of the slider was asked for"


def test_a_budget_that_is_too_small_is_refused_in_words(page):
    page.locator("#budget").fill("1")
    expect(page.locator("#readout")).to_contain_text("smallest plan needs")


def test_the_heat_map_tells_bytes_and_loss_to_pointer_and_keys(page, plan):
    choice = next(c for c in plan.choices if c.layer.name == "model.layers.2.mlp.down_proj")
    cell = cell_of(page, "down_proj", 2)
    tip = page.locator(".tip")
    cell.hover()
    for text in (choice.layer.name, str(choice.scheme), f"{choice.bytes:,}"):
        expect(tip).to_contain_text(text)
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    cell_of(page, "down_proj", 1).focus()
    page.keyboard.press("ArrowRight")
    expect(cell).to_be_focused()
    expect(tip).to_contain_text(choice.layer.name)
    expect(cell).to_have_attribute("aria-label", re.compile(f"block 2, down_proj: {choice.scheme}"))
    expect(cell).to_have_attribute("aria-label", re.compile(f"{choice.bytes:,} bytes"))
    page.keyboard.press("ArrowUp")
    expect(cell_of(page, "up_proj", 2)).to_be_focused()
    page.keyboard.press("Home")
    expect(cell_of(page, "up_proj", 0)).to_be_focused()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_on_a_phone_the_heat_map_is_turned_and_fits(visit, planned):
    page = visit(f"/jobs/{planned}", viewport={"width": 390, "height": 844})
    expect(page.locator("#frontier")).to_have_attribute("aria-busy", "false")
    sides = page.locator("#heatmap").evaluate(
        "element => [element.scrollWidth, element.clientWidth]"
    )
    assert sides[0] <= sides[1]
    first, below = (
        cell_of(page, "q_proj", 0).bounding_box(),
        cell_of(page, "q_proj", 1).bounding_box(),
    )
    assert first["x"] == below["x"]
    assert first["y"] < below["y"]
    cell_of(page, "q_proj", 0).focus()
    page.keyboard.press("ArrowDown")
    expect(cell_of(page, "q_proj", 1)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(cell_of(page, "k_proj", 1)).to_be_focused()


def test_on_a_phone_no_table_is_wider_than_the_page(visit, planned, plan):
    page = visit(f"/jobs/{planned}", viewport={"width": 390, "height": 844})
    expect(page.locator("#frontier")).to_have_attribute("aria-busy", "false")
    page.get_by_text("As a table").click()
    page.locator("#budget-range").press("PageUp")
    expect(page.locator("#changes")).to_contain_text("→")
    # The plan's size stands below its name, as its column has no room.
    row = page.locator("#agreement-table tbody tr").first
    expect(row).to_contain_text(f"{plan.bytes / 1e3:.2f} kB")
    expect(row.locator("td").first).to_be_hidden()
    for element in ("html", "#frontier-table", "#changes", "#layers", "#agreement-table"):
        sides = page.locator(element).evaluate("one => [one.scrollWidth, one.clientWidth]")
        assert sides[0] <= sides[1], element


def test_one_cell_is_on_the_way_of_the_tab_key(page):
    assert page.locator("[role=gridcell][tabindex='0']").count() == 1


def test_layers_sort_and_filter(page, plan):
    bytes_of = page.locator("#layers tbody tr td:nth-child(7)")
    expect(bytes_of).to_have_count(len(plan.choices))
    page.locator("#layers").get_by_role("button", name="Bytes").click()
    head = page.locator("#layers").get_by_role("columnheader", name="Bytes")
    expect(head).to_have_attribute("aria-sort", "descending")
    sizes = [int(text.replace(",", "")) for text in bytes_of.all_inner_texts()]
    assert sizes == sorted((choice.bytes for choice in plan.choices), reverse=True)
    page.get_by_label("Filter layers by name").fill("layers.1.mlp")
    expect(bytes_of).to_have_count(3)
    expect(page.locator("#layer-count")).to_have_text(f"3 of {len(plan.choices)} layers")
    page.get_by_label("Filter layers by name").fill("nothing is called so")
    expect(page.locator("#layers")).to_contain_text("Change the filters")


def test_the_plots_have_tables_beside_them(page, plan):
    page.get_by_text("As a table").click()
    expect(page.locator("#frontier-table")).to_contain_text("uniform int4g64")
    expect(page.locator("#agreement-table")).to_contain_text(f"{plan.evidence.plan.kl:.4f}")
    for name in ("frontier", "agreement"):
        expect(page.locator(f"#{name}")).to_have_attribute("role", "img")
        expect(page.locator(f"#{name} svg").first).to_be_visible()


def test_plans_are_taken_away_as_the_job_made_them(page, plan):
    with page.expect_download() as taken:
        page.locator("#files").get_by_role("link", name="Plan").click()
    assert Plan.load(taken.value.path()) == plan


def test_two_plans_are_compared(visit, maker, planned):
    maker.planned(table_of(blocks=4), share=0.35, label="a larger one")
    page = visit(f"/jobs/{planned}")
    select = page.locator("#compare-with")
    option = select.locator("option", has_text="a larger one")
    expect(option).to_have_count(1)
    select.select_option(option.get_attribute("value"))
    expect(page.locator("#compare")).to_contain_text("layers differ")
    expect(page.locator("#compare tbody tr").first).to_contain_text("model.")


def test_a_kept_plan_can_be_applied(page, maker, site):
    page.locator("#budget").fill("150")
    expect(page.locator("#readout")).to_contain_text("proven optimal")
    page.get_by_role("button", name="Keep it on the server").click()
    link = page.locator("#kept a")
    digest = link.get_attribute("href").rpartition("/")[2]
    kept = Plan.load(site.store.artefacts.path(digest))
    assert kept.bytes <= 150_000
    assert site.store.artefacts.find(digest, name="plan.json", owner="ana")


def test_a_table_alone_can_be_explored(visit, maker):
    table = table_of(blocks=2, seed=1)
    job = maker.submit(kind="measure", model="/models/alone")
    claim = maker.claim(job)
    maker.put(claim, "costs.json", table.to_json().encode())
    maker.finish(claim)
    page = visit(f"/jobs/{job.id}")
    expect(page.locator("#readout")).to_contain_text("no layer changes")
    expect(page.locator("[role=gridcell][aria-label^=block]")).to_have_count(14)
    page.locator("#budget-range").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    expect(page.locator("#changes")).to_contain_text("→")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/login", "job"])
def test_nothing_is_wider_than_a_phone(visit, planned, path, scheme):
    address = f"/jobs/{planned}" if path == "job" else path
    page = visit(address, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    if path == "job":
        expect(page.locator("#frontier")).to_have_attribute("aria-busy", "false")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unnamed = page.evaluate(
        """[...document.querySelectorAll("input, select, button, a")]
           .filter((one) => one.checkVisibility() && !(one.labels?.length || one.ariaLabel
             || one.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert unnamed == []

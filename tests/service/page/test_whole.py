"""From a token to a plan that is applied: the real server, a real worker, a real browser."""

import re

from playwright.sync_api import expect

from bitplan import apply_plan
from bitplan.apply import held_bytes
from bitplan.models import load_model
from bitplan.schema import Plan

WORK_MS = 300_000
"""For what takes a few seconds where nothing else runs."""


def test_a_model_is_planned_from_the_browser(browser, worked):
    site, model = worked
    context = browser.new_context(base_url=site.url)
    page = context.new_page()
    page.goto("/")
    page.wait_for_url("**/login**")
    page.get_by_label("Token").fill(site.secret)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#jobs-empty")).to_contain_text("No job yet")

    page.get_by_label("Model", exact=True).fill(str(model))
    expect(page.locator("#model-facts")).to_contain_text("layers in 2 blocks", timeout=WORK_MS)
    page.get_by_text("More settings").click()
    page.get_by_label("Calibration sequences").fill("4")
    page.get_by_label("Tokens in each").fill("16")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/*")
    expect(page.locator("#job-state")).to_have_text("Succeeded", timeout=WORK_MS)
    expect(page.locator("#verdict")).to_contain_text("tokens that neither calibration nor search")

    expect(page.locator("#frontier")).to_have_attribute("aria-busy", "false", timeout=WORK_MS)
    page.locator("#budget-range").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    expect(page.locator("#readout")).to_contain_text(re.compile(r"[1-9]\d* layers? change"))
    cell = page.get_by_role("row", name=re.compile("^down_proj ")).get_by_role("gridcell").nth(1)
    cell.focus()
    expect(page.locator(".tip")).to_contain_text("model.layers.1.mlp.down_proj")

    with page.expect_download() as taken:
        page.locator("#files").get_by_role("link", name="Plan").click()
    plan = Plan.load(taken.value.path())
    [workdir] = (path for path in site.settings.work_folder.iterdir() if path.is_dir())
    applied = apply_plan(load_model(str(model)), plan, workdir=workdir)
    assert held_bytes(applied) == plan.weight_bytes <= plan.budget_bytes
    context.close()

"""The list of jobs and the form for a new one."""

import json

import pytest
from playwright.sync_api import expect

from bitplan.service.records import Fault


def test_a_job_is_seen_to_wait_run_and_fail(visit, maker):
    page = visit("/")
    job = maker.submit(kind="allocate", model="/models/seen", budget_gb=1, label="seen")
    row = page.locator("#jobs li", has_text="seen")
    expect(row).to_contain_text("Waiting")
    claim = maker.claim(job)
    progress = {"stage": "measuring", "done": 3, "total": 8, "seconds_left": 42.0}
    maker.store.claims.tell(claim, "progress", progress)
    expect(row).to_contain_text("Running")
    expect(row).to_contain_text("42 s left")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "3")
    maker.finish(claim, Fault(kind="InfeasibleError", message="Raise the budget.", is_input=True))
    expect(row).to_contain_text("Failed")
    expect(row).to_contain_text("Raise the budget.")
    expect(page.locator("#jobs-news")).to_contain_text("seen: Failed")


def test_jobs_of_one_state_can_be_shown_alone(visit, planned, maker):
    maker.submit(kind="describe", model="/models/waits", label="waits")
    page = visit("/")
    expect(page.locator("#jobs li", has_text="waits")).to_be_visible()
    page.get_by_role("radio", name="Succeeded").check()
    expect(page.locator("#jobs li", has_text="waits")).to_have_count(0)
    expect(page.locator(f"#jobs a[href='/jobs/{planned}']")).to_be_visible()


def test_a_name_is_text_and_never_markup(visit, maker):
    label = "<img src=x onerror=document.title='taken'>"
    job = maker.submit(kind="describe", model="/models/m", label=label)
    page = visit("/")
    expect(page.locator(f"#jobs a[href='/jobs/{job.id}']")).to_have_text(label)
    page = visit(f"/jobs/{job.id}")
    expect(page.locator("h1")).to_have_text(label)
    assert page.title() != "taken"


def test_the_form_tells_what_is_missing(visit):
    page = visit("/")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#submit-problem")).to_contain_text("No model is given")
    expect(page.get_by_label("Model", exact=True)).to_be_focused()


def test_a_model_that_is_not_allowed_is_refused_in_the_servers_words(visit):
    page = visit("/")
    page.get_by_label("Model", exact=True).fill("/etc/passwd")
    expect(page.locator("#model-facts")).to_contain_text("no such model in the folders")
    expect(page.get_by_label("Model", exact=True)).to_have_attribute("aria-invalid", "true")
    page.locator("#budget").fill("1")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#submit-problem")).to_contain_text("no such model in the folders")


def test_a_described_model_fills_in_its_size_and_the_range_of_budgets(visit, saved_model):
    page = visit("/")
    expect(page.locator("#budget-range")).to_be_disabled()
    page.get_by_label("Model", exact=True).fill(str(saved_model))
    expect(page.locator("#model-facts")).to_contain_text("layers in 2 blocks", timeout=60_000)
    expect(page.locator("#budget-facts")).to_contain_text("Plans range from")
    slider, number = page.locator("#budget-range"), page.locator("#budget")
    expect(slider).to_be_enabled()
    before = float(number.input_value())
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert float(number.input_value()) > before
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext").startswith(number.input_value()[:4])


@pytest.mark.parametrize("kind", ["allocate", "measure", "describe"])
def test_what_is_submitted_is_what_the_form_says(visit, saved_model, maker, kind):
    page = visit("/")
    page.get_by_label("Model", exact=True).fill(str(saved_model))
    # Its facts move what is below them.
    expect(page.locator("#model-facts")).to_contain_text("layers in 2 blocks")
    page.get_by_label("What to do").select_option(kind)
    expect(page.locator("#budget-field")).to_be_visible(visible=kind == "allocate")
    if kind == "allocate":
        page.locator("#budget").fill("0.002")
    page.get_by_text("More settings").click()
    page.get_by_label("Label").fill(f"form {kind}")
    page.get_by_label("Priority").fill("3")
    page.get_by_label("Tokens in each").fill("16")
    if kind != "describe":
        page.get_by_label("Effort").select_option("high")
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/*")
    job = maker.store.jobs.get(page.url.rpartition("/")[2])
    assert (job.kind, job.request.label, job.request.priority) == (kind, f"form {kind}", 3)
    assert job.owner == "ana"
    assert len(sent.value.headers["idempotency-key"]) == 32
    asked = json.loads(sent.value.post_data)["parameters"]
    assert ("budget_gb" in asked) == (kind == "allocate")
    assert asked.get("length") == (None if kind == "describe" else 16)
    assert asked.get("effort") == (None if kind == "describe" else "high")

"""A job as it runs, and what can be done about it."""

from playwright.sync_api import expect

from bitplan.service.records import Fault, Scope, State


def test_progress_and_the_best_kl_are_seen_live(visit, maker):
    job = maker.submit(kind="allocate", model="/models/live", budget_gb=1)
    page = visit(f"/jobs/{job.id}")
    expect(page.locator("#stage")).to_have_text("Waiting for a worker")
    claim = maker.claim(job)
    tell = maker.store.claims.tell
    tell(claim, "progress", {"stage": "render", "done": 2, "total": 9, "seconds_left": 90.0})
    expect(page.locator("#stage")).to_have_text("render")
    expect(page.locator("#stage-count")).to_have_text("2 of 9")
    expect(page.locator("#stage-note")).to_contain_text("1 min 30 s left")
    expect(page.locator("#progress-news")).to_contain_text("render, 22 percent")
    tell(claim, "progress", {"stage": "measure", "done": 250_000_000, "total": 1_000_000_000})
    expect(page.locator("#stage-count")).to_have_text("25.0 %")
    remark = {"stage": "verify", "text": "solved", "kl": 0.12, "uniform_kl": 0.15}
    tell(claim, "remark", remark)
    expect(page.locator("#best")).to_contain_text("0.1200")
    expect(page.locator("#best")).to_contain_text("20.0 %")
    maker.finish(claim)
    expect(page.locator("#job-state")).to_have_text("Succeeded")
    expect(page.locator("#progress")).to_be_hidden()


def test_a_job_is_cancelled_and_tried_again(visit, maker):
    job = maker.submit(kind="allocate", model="/models/again", budget_gb=1)
    page = visit(f"/jobs/{job.id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job-state")).to_have_text("Cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#job-state")).to_have_text("Waiting")
    assert maker.store.jobs.get(job.id).state is State.QUEUED
    claim = maker.claim(job)
    expect(page.locator("#job-state")).to_have_text("Running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Cancelling")).to_be_disabled()
    maker.finish(claim, Fault(kind="Late", message="It failed first.", is_input=False))
    expect(page.locator("#job-problem")).to_have_text("It failed first.")
    page.get_by_text("What happened").last.click()
    expect(page.locator("#log")).to_contain_text("Cancelled")
    expect(page.locator("#log")).to_contain_text("Failed: It failed first.")


def test_a_lost_line_is_told_and_goes_on_where_it_was(visit, maker):
    job = maker.submit(kind="allocate", model="/models/line", budget_gb=1)
    claim = maker.claim(job)
    page = visit(f"/jobs/{job.id}", locale="en-US")
    expect(page.locator("#log li")).to_have_count(2)
    page.context.set_offline(True)
    maker.store.claims.tell(claim, "log", {"level": "info", "message": "while away"})
    page.context.set_offline(False)
    maker.store.claims.tell(claim, "log", {"level": "info", "message": "back again"})
    page.get_by_text("What happened").last.click()
    expect(page.locator("#log")).to_contain_text("back again")
    texts = page.locator("#log li span").all_inner_texts()
    assert texts == ["Waiting", "Running", "while away", "back again"]


def test_a_job_that_is_not_there_is_told(visit):
    page = visit(f"/jobs/{'0' * 32}")
    expect(page.locator("h1")).to_have_text("No such job")
    expect(page.get_by_role("alert")).to_contain_text("There is no job")


def test_a_token_that_may_only_read_sees_no_button_that_it_may_not_use(visit, site, maker):
    _, secret = site.store.tokens.create("ana", Scope.READ)
    job = maker.submit(kind="allocate", model="/models/read", budget_gb=1)
    page = visit("/login", signed_in=False)
    page.get_by_label("Token").fill(secret)
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    page.goto(f"/jobs/{job.id}")
    expect(page.locator("#job-state")).to_have_text("Waiting")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)

"""The token becomes a cookie that scripts cannot read."""

from playwright.sync_api import expect


def test_without_a_token_one_is_asked_for_and_comes_back(visit, site, planned):
    page = visit(f"/jobs/{planned}", signed_in=False)
    page.wait_for_url("**/login**")
    page.get_by_label("Token").fill(site.secret)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**/jobs/{planned}")
    expect(page.locator("#account")).to_contain_text("ana · submit")
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert page.evaluate("document.cookie") == ""


def test_the_page_for_signing_in_is_gone_to_once(visit):
    """Two requests of the page lack a token: neither breaks off the other's way."""
    page = visit("about:blank", signed_in=False)
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url) if "/login?" in one.url else None)
    page.goto("/")
    page.wait_for_url("**/login**")
    expect(page.get_by_label("Token")).to_be_focused()
    assert len(asked) == 1


def test_a_wrong_token_is_refused_in_words_and_can_be_typed_again(visit):
    page = visit("/login", signed_in=False)
    page.get_by_label("Token").fill("bpl_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown, revoked or has expired")
    expect(page.get_by_label("Token")).to_be_focused()


def test_signing_out_removes_the_cookie(visit):
    page = visit("/", locale="en-US")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    assert page.context.cookies() == []


def test_no_other_site_is_gone_on_to(visit, site):
    page = visit("/login?next=//example.org/jobs", signed_in=False)
    page.get_by_label("Token").fill(site.secret)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: not url.endswith("/login?next=//example.org/jobs"))
    assert page.url.startswith(site.url)

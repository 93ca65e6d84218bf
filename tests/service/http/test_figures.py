"""Logs and Prometheus: ids in every line, templates in place of addresses, no secrets."""

import json
import logging

from bitplan.service.context import set_job_id, set_request_id
from bitplan.service.logs import Context, JsonFormatter, TextFormatter


def line(formatter: logging.Formatter, text: str, **extra) -> str:
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": text, **extra})
    Context().filter(record)
    return formatter.format(record)


def test_lines_have_the_ids_and_no_secrets():
    set_request_id("r1")
    set_job_id("j1")
    try:
        secret = "bpl_" + "x" * 43
        content = json.loads(line(JsonFormatter(), f"came with {secret}", status=200))
        assert content["message"] == "came with bpl_***"
        assert (content["request_id"], content["job"], content["status"]) == ("r1", "j1", 200)
        text = line(TextFormatter(), f"came with {secret}\nand more")
        assert secret not in text
        assert text.endswith("[request_id=r1 job=j1]")
    finally:
        set_request_id("")
        set_job_id("")


def test_figures_are_by_template(api):
    job = api.submit().json()["id"]
    api("GET", f"/v1/jobs/{job}")
    api("GET", "/v1/wp-admin.php")
    text = api("GET", "/metrics", who=None).text
    assert (
        'bitplan_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"}' in text
    )
    assert 'route="unmatched",status="404"' in text
    assert job not in text
    assert "wp-admin" not in text
    assert 'bitplan_jobs{state="queued"}' in text


def test_requests_are_logged_without_tokens(api, caplog):
    with caplog.at_level(logging.INFO, "bitplan.service.access"):
        api("GET", "/v1/me", headers={"X-Request-ID": "abc"})
        api("GET", "/healthz")
    (record,) = [one for one in caplog.records if one.name == "bitplan.service.access"]
    assert vars(record)["caller"] == "alice"
    assert (vars(record)["path"], vars(record)["status"]) == ("/v1/me", 200)
    assert not any(secret in caplog.text for secret in api.secrets.values())


def test_traces_that_cannot_be_sent_do_not_stop_the_server(served, monkeypatch, caplog):
    """By another protocol; where the packages are missing the same is said of them."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    api = served()
    with api.client:
        assert api("GET", "/healthz").status_code == 200
    assert "telemetry configuration failed" in caplog.text

"""Dockerfile, compose file and Kubernetes manifests name what there is."""

import contextlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from bitplan.cli.app import app
from bitplan.service.http import make_app
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "examples" / "service"
PREFIX = ServiceSettings.model_config.get("env_prefix", "")
PORT = ServiceSettings.model_fields["port"].default


class Part:
    """What runs: web or a worker."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command, self.environment = command, environment

    @property
    def settings(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if name.startswith(PREFIX)}


def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "docker-compose.yml").read_text())


def kubernetes(kind: str) -> list[dict[str, Any]]:
    every = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    return [one for one in every if one["kind"] == kind]


def pods() -> dict[str, dict[str, Any]]:
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in kubernetes("Deployment")
    }


def instructions() -> list[tuple[str, str]]:
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def parts() -> dict[str, Part]:
    services = compose()["services"]
    found = {
        f"compose {name}": Part(services[name]["command"], services[name]["environment"])
        for name in ("web", "worker")
    }
    (shared,) = kubernetes("ConfigMap")
    secret = {"database-url": "postgresql://ann@db/bitplan", "redis-url": "redis://queue:6379/0"}
    for name, pod in pods().items():
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": shared["metadata"]["name"]}}]
        own = {
            one["name"]: secret[one["valueFrom"]["secretKeyRef"]["key"]] for one in container["env"]
        }
        found[name] = Part(container["command"], {**shared["data"], **own})
    (command,) = (json.loads(value) for name, value in instructions() if name == "CMD")
    image = [pair for name, value in instructions() if name == "ENV" for pair in shlex.split(value)]
    found["image"] = Part(command, dict(pair.split("=", 1) for pair in image))
    return found


@pytest.mark.parametrize("name", parts())
def test_commands_and_settings_are_known(name, monkeypatch):
    part = parts()[name]
    program, command, *rest = part.command
    assert program == "bitplan"
    group = typer.main.get_command(app)
    context = group.make_context("bitplan", [command, *rest], resilient_parsing=True)
    group.get_command(context, command).make_context(command, rest)
    fields = {f"{PREFIX}{field.upper()}": field for field in ServiceSettings.model_fields}
    assert part.settings.keys() <= fields.keys()
    for variable, value in part.settings.items():
        monkeypatch.setenv(variable, value)
    settings = ServiceSettings()
    assert settings.model_fields_set == {fields[variable] for variable in part.settings}
    assert settings.folder == Path("/state")


@pytest.mark.parametrize(
    ("web", "worker"), [("compose web", "compose worker"), ("bitplan-web", "bitplan-worker")]
)
def test_web_and_workers_have_the_same_settings(web, worker):
    found = parts()
    assert found[web].settings == found[worker].settings
    assert {f"{PREFIX}DATABASE_URL", f"{PREFIX}REDIS_URL"} <= found[web].settings.keys()
    assert found[web].command[-2:] == ["--workers", "0"]


def test_ports_and_what_is_asked_after_a_servers_health_are_there(tmp_path):
    settings = ServiceSettings(folder=tmp_path)
    with contextlib.closing(Store.open(settings)) as store:
        paths = make_app(settings, store).openapi()["paths"]
    web = compose()["services"]["web"]
    (asked,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", " ".join(web["healthcheck"]["test"]))
    (container,) = pods()["bitplan-web"]["containers"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")]
    asked = [(int(asked[0]), asked[1]), *((probe["port"], probe["path"]) for probe in probes)]
    assert {path for _, path in asked} <= set(paths)
    (exposed,) = (int(value) for name, value in instructions() if name == "EXPOSE")
    (service,) = kubernetes("Service")
    ports = [port for port, _ in asked]
    ports += [exposed, container["ports"][0]["containerPort"]]
    ports += [service["spec"]["ports"][0]["targetPort"], int(web["ports"][0].split(":")[-1])]
    assert set(ports) == {PORT}


def test_no_variable_that_kubernetes_makes_of_a_service_is_a_setting():
    """It makes NAME_SERVICE_HOST and NAME_SERVICE_PORT, which `bitplan` would turn into ours."""
    assert not any(pod["enableServiceLinks"] for pod in pods().values())
    for service in kubernetes("Service"):
        name = service["metadata"]["name"].upper().replace("-", "_")
        assert f"{name}_SERVICE_" != PREFIX


def test_the_image_is_made_of_what_there_is():
    copied = [value.split()[:-1] for name, value in instructions() if name == "COPY"]
    names = [name for one in copied for name in one]
    assert all((ROOT / name).exists() for name in names)
    # The package needs the folders that its links lead to.
    links = [path for path in (ROOT / "bitplan").iterdir() if path.is_symlink()]
    assert {link.resolve().name for link in links} <= set(names)
    run = next(value for name, value in instructions() if name == "RUN")
    (extras,) = re.findall(r"\.\[([\w,]+)\]", run)
    declared = (ROOT / "pyproject.toml").read_text()
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra
    (user,) = re.findall(r"--uid (\d+)", run)
    for pod in pods().values():
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(user)

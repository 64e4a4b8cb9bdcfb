"""infra/: the compose file and the images say what a team's servers need, and hold no secret.

Run: .venv/bin/pytest tests/unit/test_infra.py

No engine runs here: `docker compose config` reads the file where the client has its compose plugin,
and is skipped elsewhere. No package that Trivet installs holds the compose specification's JSON
schema, so the file is not checked against it here. Not covered: that the images build and start.
"""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
COMPOSE_TEXT = (INFRA / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (INFRA / "Dockerfile").read_text()
EXAMPLE = dict(
    line.split("=", 1)
    for line in (INFRA / ".env.example").read_text().splitlines()
    if line and not line.startswith("#")
)
PINNED = r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9.-]+)?"
REQUIRED = r"\$\{[A-Z_]+:\?[^}]+\}"
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
every_service = pytest.mark.parametrize("name", SERVICES)


def has_compose() -> bool:
    if not shutil.which("docker"):
        return False
    return not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode


@pytest.mark.skipif(
    not has_compose(), reason="the docker client with its compose plugin is not here"
)
def test_docker_compose_reads_the_file() -> None:
    words = ["docker", "compose", "-f", "infra/compose.yaml", "--env-file", "infra/.env.example"]
    done = subprocess.run([*words, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_services_are_the_ones_a_team_needs() -> None:
    wanted = {"prefect", "prefect-db", "mlflow", "mlflow-db", "store", "bucket", "worker"}
    assert set(SERVICES) == wanted


@every_service
def test_image_is_pinned(name: str) -> None:
    assert re.fullmatch(PINNED, SERVICES[name]["image"])


@every_service
def test_own_images_are_built_once_and_never_pulled(name: str) -> None:
    """Two builds of one tag at the same time get in each other's way."""
    image = SERVICES[name]["image"]
    builders = [s for s in SERVICES.values() if s["image"] == image and "build" in s]
    own = image.startswith("trivet")
    assert len(builders) == own
    assert (SERVICES[name].get("pull_policy") == "never") == own


@every_service
def test_user_is_not_root(name: str) -> None:
    user = re.sub(r"\$\{[A-Z_]+:-(\d+)\}", r"\1", SERVICES[name]["user"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert SERVICES[name]["cap_drop"] == ["ALL"]


@every_service
def test_health_is_checked(name: str) -> None:
    """Or, for what runs once and ends, some other service waits for its good end."""
    waiting = [s.get("depends_on", {}).get(name, {}).get("condition") for s in SERVICES.values()]
    if "service_completed_successfully" in waiting:
        assert SERVICES[name]["restart"] == "no"
    else:
        check = SERVICES[name]["healthcheck"]
        assert check["test"][0] in {"CMD", "CMD-SHELL"}
        assert check["interval"] and check["timeout"] and check["retries"]


@every_service
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)
    assert "network_mode" not in SERVICES[name] and "privileged" not in SERVICES[name]


@every_service
def test_dependencies_name_services_and_conditions(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        once = SERVICES[other]["restart"] == "no"
        assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")


def test_everything_waits_for_what_it_talks_to() -> None:
    """A host name in a service's environment is a service that it waits for."""

    def behind(name: str) -> set[str]:
        direct = set(SERVICES[name].get("depends_on", {}))
        return direct.union(*(behind(other) for other in direct))

    for name, service in SERVICES.items():
        for value in service.get("environment", {}).values():
            host = re.search(r"://(?:.*@)?([a-z-]+):\d+", str(value))
            assert not host or host[1] in behind(name), f"{name} talks to {value}"


@every_service
def test_secrets_come_from_the_environment_file(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|ACCESS_KEY|TOKEN|AUTH", key):
            assert re.fullmatch(REQUIRED, value), f"{name}: {key} is written out"
        for password in re.findall(r"://[^:/]+:(.+)@", str(value)):
            assert re.fullmatch(REQUIRED, password), f"{name}: {key} holds a password"


def test_example_has_every_variable_and_only_obvious_placeholders() -> None:
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", COMPOSE_TEXT))
    required = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE_TEXT))
    assert set(EXAMPLE) == used
    assert all(re.fullmatch(r"replaceMeFake\w+", EXAMPLE[key]) for key in required)
    assert all(EXAMPLE[key].isdigit() for key in used - required)
    assert len({EXAMPLE[key] for key in required}) == len(required) == 4


@pytest.mark.parametrize("name", ["prefect", "mlflow", "worker"])
def test_telemetry_is_off(name: str) -> None:
    assert TELEMETRY_OFF.items() <= SERVICES[name]["environment"].items()


def test_worker_stands_in_the_clone_and_keeps_results_there() -> None:
    worker = SERVICES["worker"]
    assert worker["working_dir"] == worker["environment"]["PWD"] == "/workspace"
    assert worker["volumes"] == ["..:/workspace"]
    assert worker["environment"]["PREFECT_LOCAL_STORAGE_PATH"].startswith("/workspace/.trivet/")
    pool = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]["work_pool"][
        "name"
    ]
    assert worker["command"][:5] == ["prefect", "worker", "start", "--pool", pool]


def test_named_volumes_are_declared() -> None:
    mounts = [v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])]
    assert {m for m in mounts if not m.startswith(".")} == set(COMPOSE["volumes"])


def test_dockerfile_stages_are_pinned_and_end_as_a_plain_user() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]
    names = sorted(stage.split()[2] for stage in stages)
    assert names == sorted(s["build"]["target"] for s in SERVICES.values() if "build" in s)
    for stage in stages:
        assert re.fullmatch(PINNED, stage.split()[0])
        assert re.findall(r"^USER (.*)$", stage, flags=re.M)[-1] == "1000:1000"


def test_dockerfile_installs_torch_first_and_only_pinned_packages() -> None:
    (torch,) = re.findall(r"pip install -q (torch==\S+)", (ROOT / "Makefile").read_text())
    logical = DOCKERFILE.replace("\\\n", " ")
    first, second = re.findall(r"^RUN pip install (.*?)(?:&&|$)", logical, flags=re.M)
    assert first.split() == [torch]
    assert second.split()[:4] == ["-c", "constraints.txt", "-e", "'.[fpga]'"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+", word) for word in second.split()[4:])


def test_images_and_pins_agree_with_the_constraints() -> None:
    """boto3 takes the botocore of its own number; asyncpg is Prefect's."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert f"boto3=={pins['botocore']}" in DOCKERFILE
    assert f"asyncpg=={pins['asyncpg']}" in DOCKERFILE
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert SERVICES["worker"]["image"] == f"trivet:{version}"


def test_image_leaves_secrets_and_history_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"**/.env", ".git", ".trivet", "runs", "data"} <= set(ignored)

"""What runs by itself: the deployments of prefect.yaml, and recipes on a schedule.

A schedule belongs to a recipe, by its name; a recipe's newest schedule takes the place of the one
before. Runs fire while `trivet up` is running, and one whose inputs did not change is skipped.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from uuid import UUID

from trivet import UserError
from trivet.flows.server_state import WORK_POOL, Servers, http_get

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

DEPLOYMENT = "tune/tune"


class Parameters(TypedDict):
    """What the flow `tune` takes."""

    recipe: str
    overrides: list[str]


@dataclass(frozen=True)
class Schedule:
    """One schedule of the deployment; those made in the Prefect UI may lack name, cron and recipe.

    `cron` is read in `timezone`.
    """

    name: str | None
    cron: str | None
    timezone: str | None
    active: bool
    recipe: str | None
    overrides: list[str]


def deploy(root: Path, servers: Servers) -> None:
    """Register what prefect.yaml holds; schedules that were added later stay.

    Raises UserError with Prefect's own words when prefect.yaml or its entry point is at fault.
    """
    # Prefect refuses a deployment to a pool that its worker, still starting, has not made yet.
    http_get(f"{servers.prefect_api}/work_pools/", {"name": WORK_POOL, "type": "process"})
    here = {"PWD": str(root.resolve()), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=root,
        env=os.environ | servers.environment() | here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        lines = (result.stdout + result.stderr).strip().splitlines()[-6:]
        raise UserError(f"{root / 'prefect.yaml'} was not deployed: {' '.join(lines)}")


def schedule(
    root: Path,
    servers: Servers,
    recipe: str,
    overrides: list[str],
    cron: str,
    timezone: str | None = None,
) -> str:
    """Run the recipe whenever `cron` says, in local time unless a zone is named; returns its name.

    The schedule carries the recipe's name: another one for the same recipe takes its place.
    Raises UserError for a bad recipe, override, cron string or time zone.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from tzlocal import get_localzone_name

    name, parameters = _parameters(root, recipe, overrides)
    zone = timezone or get_localzone_name() or "UTC"
    try:
        times = CronSchedule(cron=cron, timezone=zone)
    except ValueError as error:
        raise UserError(
            f"No schedule for {recipe}: --cron {cron!r} in time zone {zone!r} does not hold "
            f"({_reason(error)}). Five fields: minute hour day month weekday; '0 2 * * *' is "
            "every night at two."
        ) from None
    with _client(servers) as client:
        deployment = _deployment(root, servers, client)
        for former in client.read_deployment_schedules(deployment):
            if former.slug == name:
                client.update_deployment_schedule(
                    deployment, former.id, active=True, schedule=times, parameters={**parameters}
                )
                return name
        entry = DeploymentScheduleCreate(schedule=times, slug=name, parameters={**parameters})
        client.create_deployment_schedules(deployment, [entry])
    return name


def unschedule(root: Path, servers: Servers, recipe: str) -> bool:
    """Take the recipe (a file or a schedule's name) off the schedule; False if it was not on it."""
    with _client(servers) as client:
        deployment = _deployment(root, servers, client)
        for former in client.read_deployment_schedules(deployment):
            if former.slug == Path(recipe).stem:
                client.delete_deployment_schedule(deployment, former.id)
                return True
    return False


def schedules(root: Path, servers: Servers) -> list[Schedule]:
    """Every schedule of the deployment, paused ones too."""
    with _client(servers) as client:
        entries = client.read_deployment_schedules(_deployment(root, servers, client))
    return [
        Schedule(
            name=entry.slug,
            cron=getattr(entry.schedule, "cron", None),
            timezone=getattr(entry.schedule, "timezone", None),
            active=entry.active,
            recipe=entry.parameters.get("recipe"),
            overrides=entry.parameters.get("overrides", []),
        )
        for entry in entries
    ]


def run_later(
    root: Path, servers: Servers, recipe: str, overrides: list[str], seconds: float
) -> str:
    """Have the worker run the recipe once, `seconds` from now; returns the flow run's id."""
    from prefect.states import Scheduled

    _, parameters = _parameters(root, recipe, overrides)
    due = datetime.now(UTC) + timedelta(seconds=seconds)
    with _client(servers) as client:
        run = client.create_flow_run_from_deployment(
            _deployment(root, servers, client),
            parameters={**parameters},
            state=Scheduled(scheduled_time=due),
        )
    return str(run.id)


def _parameters(root: Path, recipe: str, overrides: list[str]) -> tuple[str, Parameters]:
    """The recipe's name, and the flow's parameters with a path that holds from the root."""
    from trivet.config.recipe import load

    name = load(recipe, overrides).name
    file = Path(recipe).resolve()
    if file.exists():
        inside = file.is_relative_to(root.resolve())
        recipe = str(file.relative_to(root.resolve()) if inside else file)
    return name, {"recipe": recipe, "overrides": overrides}


def _deployment(root: Path, servers: Servers, client: "SyncPrefectClient") -> UUID:
    """The id of `tune`'s deployment, registered if the server does not know it."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(DEPLOYMENT).id
    except ObjectNotFound:
        deploy(root, servers)
        return client.read_deployment_by_name(DEPLOYMENT).id


@contextmanager
def _client(servers: Servers) -> Iterator["SyncPrefectClient"]:
    """Prefect's own client, aimed at these servers whatever the environment says."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    settings = temporary_settings({PREFECT_API_URL: servers.prefect_api})
    with settings, get_client(sync_client=True) as client:
        yield client


def _reason(error: ValueError) -> str:
    """pydantic's message without its preamble."""
    errors = getattr(error, "errors", None)
    return "; ".join(e["msg"] for e in errors()) if errors else str(error)

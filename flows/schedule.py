"""What runs by itself: the deployment of prefect.yaml, and recipes on a schedule.

A schedule belongs to a recipe, by its name; a recipe's newest schedule takes the place of the one
before. Runs fire while `trivet up` is running, and one whose inputs did not change is skipped.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from tzlocal import get_localzone_name

from .. import UserError
from .recipe import load
from .up import Servers

DEPLOYMENT = "tune/tune"


def deploy(root: Path, servers: Servers) -> None:
    """Register what prefect.yaml holds; schedules that were added later stay.

    Raises UserError with Prefect's own words when prefect.yaml or its entry point is at fault.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=root,
        env=os.environ
        | servers.environment()
        | {"PWD": str(root.resolve()), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-6:]
        raise UserError(f"{root / 'prefect.yaml'} was not deployed: {' '.join(said)}")


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
    name, parameters = _parameters(root, recipe, overrides)
    with _client(servers) as client:
        from prefect.client.schemas.schedules import CronSchedule

        zone = timezone or get_localzone_name() or "UTC"
        try:
            times = CronSchedule(cron=cron, timezone=zone)
        except ValueError as error:
            raise UserError(
                f"No schedule for {recipe}: --cron {cron!r} in time zone {zone!r} does not hold "
                f"({_reason(error)}). Five fields: minute hour day month weekday; '0 2 * * *' is "
                "every night at two."
            ) from None
        deployment = _deployment(root, servers, client)
        old = [s for s in client.read_deployment_schedules(deployment) if s.slug == name]
        if old:
            client.update_deployment_schedule(
                deployment, old[0].id, active=True, schedule=times, parameters=parameters
            )
        else:
            client.create_deployment_schedules(
                deployment, [(times, True)], parameters=parameters, slug=name
            )
    return name


def unschedule(root: Path, servers: Servers, recipe: str) -> bool:
    """Take the recipe (a file or a schedule's name) off the schedule; False if it was not on it."""
    with _client(servers) as client:
        deployment = _deployment(root, servers, client)
        for old in client.read_deployment_schedules(deployment):
            if old.slug == Path(recipe).stem:
                client.delete_deployment_schedule(deployment, old.id)
                return True
    return False


def schedules(root: Path, servers: Servers) -> list[dict[str, Any]]:
    """One row per schedule: name, cron, timezone, active, recipe, overrides."""
    with _client(servers) as client:
        found = client.read_deployment_schedules(_deployment(root, servers, client))
    return [
        {
            "name": s.slug,
            "cron": getattr(s.schedule, "cron", None),
            "timezone": s.schedule.timezone,
            "active": s.active,
        }
        | s.parameters
        for s in found
    ]


def run_later(
    root: Path, servers: Servers, recipe: str, overrides: list[str], seconds: float
) -> str:
    """Have the worker run the recipe once, `seconds` from now; returns the flow run's id."""
    _, parameters = _parameters(root, recipe, overrides)
    with _client(servers) as client:
        from prefect.states import Scheduled

        due = datetime.now(UTC) + timedelta(seconds=seconds)
        run = client.create_flow_run_from_deployment(
            _deployment(root, servers, client),
            parameters=parameters,
            state=Scheduled(scheduled_time=due),
        )
    return str(run.id)


def _parameters(root: Path, recipe: str, overrides: list[str]) -> tuple[str, dict[str, Any]]:
    """The recipe's name, and the flow's parameters with a path that holds from the root."""
    name = load(recipe, overrides).name
    file = Path(recipe).resolve()
    if file.exists():
        inside = file.is_relative_to(root.resolve())
        recipe = str(file.relative_to(root.resolve()) if inside else file)
    return name, {"recipe": recipe, "overrides": overrides}


def _deployment(root: Path, servers: Servers, client: Any) -> UUID:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(DEPLOYMENT).id
    except ObjectNotFound:
        deploy(root, servers)
        return client.read_deployment_by_name(DEPLOYMENT).id


@contextmanager
def _client(servers: Servers) -> Iterator[Any]:
    """Prefect's own client, aimed at these servers whatever the environment says."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    aimed = temporary_settings({PREFECT_API_URL: servers.prefect_api})
    with aimed, get_client(sync_client=True) as client:
        yield client


def _reason(error: ValueError) -> str:
    """pydantic's message without its preamble."""
    errors = getattr(error, "errors", None)
    return "; ".join(e["msg"] for e in errors()) if errors else str(error)

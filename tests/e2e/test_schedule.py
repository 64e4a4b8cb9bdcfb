"""Recipes on a schedule, by command; that a scheduled run fires is shown by all of test_flow.py."""

from typing import Any

from prefect_api import PrefectApi
from product import Trivet


def schedules(prefect: PrefectApi) -> list[dict[str, Any]]:
    (tune,) = prefect.ask("deployments/filter", deployments={"name": {"any_": ["tune"]}})
    return tune["schedules"]  # type: ignore[no-any-return]


def test_a_schedule_is_replaced_and_removed(trivet: Trivet, prefect: PrefectApi) -> None:
    for cron in ("0 2 * * *", "30 3 * * 1"):
        said = trivet("schedule", "home.toml", "tune.rank=4", "--cron", cron).stdout
        assert f"home.toml runs at '{cron}'" in said
    (entry,) = (s for s in schedules(prefect) if s["slug"] == "home")
    assert entry["schedule"]["cron"] == "30 3 * * 1"
    assert entry["parameters"] == {"recipe": "home.toml", "overrides": ["tune.rank=4"]}
    assert "no longer scheduled" in trivet("schedule", "home.toml", "--remove").stdout
    assert not [s for s in schedules(prefect) if s["slug"] == "home"]
    assert "Say when" in trivet("schedule", "home.toml", rc=2).stderr

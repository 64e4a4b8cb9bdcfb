"""The search for a student, as one watches it: each trial is a flow run, and it goes on."""

import json
from pathlib import Path

from prefect_api import PrefectApi
from product import Ran, Trivet


def test_a_search_goes_on_where_it_was_stopped(
    home_run: Ran, trivet: Trivet, prefect: PrefectApi
) -> None:
    search = ("fpga", "search", "small.toml")
    found = json.loads(trivet(*search, "--json").stdout)
    trials = list(Path(found["folder"], "trials").glob("*.json"))
    assert found["trials"] == len(trials) == 2
    assert found["chosen"]["cost"] > 0 and found["pareto"]
    before = {file: file.stat().st_mtime_ns for file in trials}
    words = ("fpga.search_trials=3", "fpga.max_lut=90000")
    more = json.loads(trivet(*search, *words, "--json").stdout)
    assert more["trials"] == 3 and more["folder"] == found["folder"]
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())
    flows = prefect.ask("flow_runs/filter", flows={"name": {"any_": ["fpga-trial"]}})
    assert len(flows) == 3 and all(flow["parent_task_run_id"] for flow in flows)
    assert Path(found["folder"], "pareto.png").stat().st_size > 10_000
    refused = trivet(*search, "fpga.search_trials=3", "fpga.max_lut=1", rc=2)
    assert "none of 3 students fits" in refused.stderr

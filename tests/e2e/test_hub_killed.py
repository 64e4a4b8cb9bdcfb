"""A download from the hub that is killed half-way is finished by the next run.

Run: pytest tests/e2e/test_hub_killed.py
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hub_server import MODEL, OLD, Hub, files

FETCH = """
from trivet.config.data import Model
from trivet.tuning.base import base_folder, resolve

print(base_folder(resolve(Model(base="%s"))))
"""


def test_a_killed_download_goes_on_with_the_next_run(tmp_path: Path) -> None:
    hub = Hub()
    places = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"} | places
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", FETCH % MODEL]
    try:
        hub.half, hub.stall = True, 600.0
        process = subprocess.Popen(command, env=environment)
        while not hub.halves and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        hub.half = False
        hub.requests.clear()
        again = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        folder = Path(again.stdout.strip())
        weights = files(OLD)["model.safetensors"]
        assert (folder / "model.safetensors").read_bytes() == weights
        assert (folder / "config.json").read_bytes() == files(OLD)["config.json"]
        hub.requests.clear()
        third = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert third.stdout == again.stdout and len(hub.requests) == 1, hub.requests
    finally:
        hub.stop()

"""MLflow: runs, models, aliases, and the chain from a model back to its rows.

Nothing else imports mlflow.
"""

import logging
import os

from trivet.registry.chain import Chain, why
from trivet.registry.models import (
    chip_recipe,
    find,
    is_registered,
    promote,
    registered,
    rival,
    student,
)
from trivet.registry.runs import (
    git,
    log_curve,
    log_folder,
    log_point,
    log_results,
    open_run,
    url,
)

__all__ = [
    "Chain",
    "chip_recipe",
    "find",
    "git",
    "is_registered",
    "log_curve",
    "log_folder",
    "log_point",
    "log_results",
    "open_run",
    "promote",
    "registered",
    "rival",
    "student",
    "url",
    "why",
]

# The console is Trivet's: MLflow's own lines and bars would break its bars.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
logging.getLogger("mlflow").setLevel(logging.WARNING)

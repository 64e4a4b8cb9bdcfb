"""Trivet: from a data set to a small tuned model that gives the same answers on GPU, CPU and FPGA.

`trivet.flows` is the product as one sees it, `trivet.hw` the FPGA leg. The folders lie at the top
of the repository and are linked here, so that no top-level name of ours can shadow a library's.
"""

from pathlib import Path


class UserError(Exception):
    """Something the user can mend: the recipe, the data or the machine.

    The message is one paragraph that names the key, file or line, the value, the reason and the
    fix. The command line prints it without a traceback and exits 2.
    """


def workspace() -> Path:
    """The clone that one stands in: the nearest folder upwards that holds data.dvc."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "data.dvc").exists():
            return folder
    raise UserError(
        f"{here} lies in no Trivet workspace (no data.dvc upwards): change to your clone."
    )

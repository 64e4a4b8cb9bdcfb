"""Fresh workspaces, as a clone has them."""

import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def fresh_workspace(folder: Path) -> Path:
    """data.dvc, DVC's settings, the deployment and the ignore rules, committed."""
    folder.mkdir()
    for name in (
        "data.dvc",
        ".dvcignore",
        ".gitignore",
        "prefect.yaml",
        ".dvc/config",
        ".dvc/.gitignore",
    ):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "workspace"]):
        author = {
            f"GIT_{who}_{what}": "test@example.com"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        subprocess.run(["git", *words], cwd=folder, check=True, env=os.environ | author)
    return folder

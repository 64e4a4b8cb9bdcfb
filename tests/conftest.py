"""What several test files share. Run all: make test; one: .venv/bin/pytest tests/test_train.py"""

import os
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton: kernels run without a GPU

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from workspaces import REPOSITORY, fresh_workspace

from trivet.config.data import Model

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def base() -> Path:
    """The packaged SmolLM2-135M-Instruct, whole."""
    from trivet.tuning.base import base_folder, resolve

    return base_folder(resolve(Model()))


@pytest.fixture(scope="session")
def small_base(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of the same real weights, with the real tokenizer: a quick base."""
    folder = tmp_path_factory.mktemp("base") / "two-layers"
    config = AutoConfig.from_pretrained(base, num_hidden_layers=2)
    AutoModelForCausalLM.from_pretrained(base, config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh workspace, as a clone has it, that the test stands in."""
    folder = fresh_workspace(tmp_path / "workspace")
    monkeypatch.chdir(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's tier is the folder that it lies in."""
    for item in items:
        tier = item.path.relative_to(REPOSITORY / "tests").parts[0]
        item.add_marker(getattr(pytest.mark, tier))

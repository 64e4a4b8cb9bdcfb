"""Whole Jacobians, every combination of the norm, DoRA in every family; the unit tier has a few.
Run: .venv/bin/pytest tests/compile/test_gradient_sweep.py
"""

import pytest
import torch
from gradient_checks import STATES, check_norm_cpu_and_kernel, check_qlora_slope, check_rope_slopes
from patched_models import FAMILIES, check_family

import trivet.kernels.verify.interpreter  # noqa: F401  mends its bfloat16 on import


@pytest.mark.parametrize("name", STATES)
def test_qloras_gradients_are_slopes(name: str) -> None:
    check_qlora_slope(name, fast=False)


def test_the_rotary_embeddings_gradients_are_slopes() -> None:
    check_rope_slopes(fast=False)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norms_cpu_and_kernel_agree(dtype: torch.dtype, add: bool, offset: float) -> None:
    check_norm_cpu_and_kernel(dtype, add, offset)


@pytest.mark.parametrize("family", FAMILIES)
def test_doras_losses_and_gradients_are_pefts(family: str) -> None:
    check_family(family, dora=True)

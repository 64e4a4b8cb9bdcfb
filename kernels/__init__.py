"""Kernels for tuning on a frozen base: LoRA, QLoRA, DoRA, their quantisers, loss and block parts.

One idea a file: the formula, the Triton kernels, the plain torch that runs on the CPU, and at the
end the `OP` that drives the tests, the compile matrix and the tables (see spec.py). Read lora.py
first. `patch.patch(model)` puts all of it under a stock PEFT model.

Only this folder knows Triton. Importing it registers the operators as `torch.ops.trivet.*`.
"""

"""The parts of verify.py, the plain file in a shipped folder that proves it without Trivet.

A folder's file is three of these, one below the other, as `evaluate/verifier.py` makes it: a
runtime (`torch_runtime`, `onnx_runtime`), a task (`classify`, `tag`, `generate`) and `verify`,
which reads the golden rows and compares. They import nothing of the rest of Trivet, and do again in
other words what the scorer does: prompt, places, labels, stop tokens, replies. A mistake that all
stages have in common is therefore not shared here.
"""

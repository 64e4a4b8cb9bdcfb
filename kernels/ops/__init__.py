"""The operators, a folder each; a folder with a case.py is verified (see verify/cases.py).

In a folder, as far as the operator needs it: formula.py says what is computed, triton.py holds the
GPU's kernels, launch.py their launches where they fill a file of their own, cpu.py the plain torch,
op.py the registered operator and the function that callers use, case.py what verification draws.
Beside the folders lies what several operators share.
"""

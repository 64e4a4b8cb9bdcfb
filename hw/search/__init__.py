"""The search for a network that fits the chip: accuracy against area and latency.

A point is a few values of a student: its hidden sizes, and the bits and zeros of each layer. A
trial trains the student of a point in fixed point and lets alkaid count: seconds, where synthesis
takes minutes. Trials may run side by side, and one that is done is a file that is not made again.
Not here: the running of many trials, synthesis of the chosen one.
"""

"""Whether the kernels are right and what they cost: cases, models, compile matrix, benchmark."""

"""What is known of the machines that kernels run on: published figures, dtypes, machine code."""

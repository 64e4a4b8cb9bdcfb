"""The RTL stage: the network as Verilog, its test bench, and its simulation cycle by cycle."""

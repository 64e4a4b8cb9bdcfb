"""The chip leg: a small network in fixed point, its HLS project, its Verilog, its synthesis.

`fixed` says what every other form of the network must equal, bit for bit; each stage after it is a
folder (`hls`, `rtl`, `synth`), whose tools are imported only when it runs. Nothing here knows the
rest of Trivet: errors are `errors.DesignError`, in the words of the function that was called.
"""

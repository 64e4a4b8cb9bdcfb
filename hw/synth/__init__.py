"""The synthesis stage: what the Verilog costs on a chip, by open tools and by a vendor's own."""

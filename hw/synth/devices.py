"""What the known chips have, so that a design's share of one can be told.

Not here: packages, speed grades, prices.
"""

# lut, ff, dsp, bram of the whole device. Kintex UltraScale+: AMD DS890, table "Kintex UltraScale+
# FPGA Feature Summary", bram in blocks of 36 Kb. ECP5: Lattice FPGA-DS-02012, table 1.1, and the
# exact LUT counts of nextpnr's chip database, bram in blocks of 18 Kb.
DEVICES: dict[str, dict[str, int]] = {
    "xcku5p": {"lut": 216_960, "ff": 433_920, "dsp": 1_824, "bram": 480},
    "LFE5U-12": {"lut": 12_000, "ff": 12_000, "dsp": 28, "bram": 32},
    "LFE5U-25": {"lut": 24_288, "ff": 24_288, "dsp": 28, "bram": 56},
    "LFE5U-45": {"lut": 43_848, "ff": 43_848, "dsp": 72, "bram": 108},
    "LFE5U-85": {"lut": 83_640, "ff": 83_640, "dsp": 156, "bram": 208},
}


def capacity(part: str) -> dict[str, int] | None:
    """What the named part has of each resource, None for a part that is not in the table."""
    names = [name for name in DEVICES if part.lower().startswith(name.lower())]
    return DEVICES[names[0]] if names else None

"""What is known of an HLS project: its shape, how layers multiply, what explicit types buy."""

from typing import ClassVar

from pydantic import ConfigDict, Field

from trivet.hw.record import Part, Record

DEFAULT = "ap_fixed<16,6>"  # what hls4ml takes where it is told nothing


class LayerStrategy(Part):
    """How hls4ml makes a layer's products, in its own words: all at once, or in turns."""

    model_config = ConfigDict(validate_by_name=True)

    strategy: str = Field(alias="Strategy")
    reuse_factor: int = Field(alias="ReuseFactor")


class DefaultPrecision(Part):
    """The same weights in hls4ml's default type: on how many of the rows any logit, on how many the
    answer is another, and the largest difference of a logit.
    """

    rows: int
    logits_differ: int
    answers_differ: int
    largest_difference: float
    precision: str = DEFAULT


class HlsDesign(Record):
    """design.json: `shape` is of one row at the host, `on_host` what the host computes of it."""

    FILE: ClassVar[str] = "design.json"
    part: str
    shape: tuple[int, ...]
    classes: int
    on_host: tuple[str, ...]
    layers: tuple[LayerStrategy, ...]
    default_precision: DefaultPrecision | None = None

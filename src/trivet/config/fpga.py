"""[export]: the forms for a CPU. [fpga]: the student for the chip."""

from typing import Annotated

from pydantic import Field, model_validator

from trivet.config.section import Section


class Export(Section):
    int8: bool = Field(True, description="dynamic int8 beside the fp32 ONNX model")


Bits = Annotated[int, Field(ge=2, le=16)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Fpga(Section):
    """The chip runs a small student, not the language model. Needs `task = "classify"`.

    The student is `hidden` dense layers, or your own torch module: `module = "my_net.py:build"`
    names a file and the function in it that returns one; without `weights` it is trained here.
    """

    enabled: bool = False
    bins: int = Field(256, ge=8, description="hashed n-gram counts that the host feeds the chip")
    hidden: list[int] = Field([32, 32])
    module: str = Field("", pattern=r"^$|\.py:\w+$", description="FILE.py:FUNCTION")
    weights: str = Field("", description="safetensors file of the module's state")
    input_bits: int = Field(8, ge=1, le=16, description="of a number; counts have 1, ids as needed")
    weight_bits: Bits | list[Bits] = Field(6, description="of all layers, or of each")
    activation_bits: Bits | list[Bits] = Field(8, description="of all layers, or of each")
    sparsity: Share | list[Share] = Field(0.0, description="weights that end as zero, as the bits")
    per_channel: bool = Field(False, description="weights of each output in a scale of their own")
    epochs: int = Field(60, ge=1)
    part: str = "xcku5p-ffvb676-2-e"
    max_cycles: int = Field(12, ge=2, description="latency of one answer, in clock cycles")
    max_lut: int = Field(10_000, ge=1, description="what a search may choose, by its estimate")
    search_trials: int = Field(40, ge=1, description="students that `trivet fpga search` tries")
    student: str = Field("", pattern=r"^$|^[^@/]+/\d+$", description="take MODEL/VERSION's own")
    seed: int = 0

    @model_validator(mode="after")
    def _weights_have_a_module(self) -> "Fpga":
        if self.weights and not self.module:
            raise ValueError("fpga.weights are those of a fpga.module: name it too")
        return self

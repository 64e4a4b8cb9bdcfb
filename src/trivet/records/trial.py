"""kernels.json: which kernels an adapter was tuned on, and what stayed stock, by name."""

from typing import ClassVar

from trivet.records.record import Record


class Trial(Record):
    """`kernels`: how many modules of each kind ran on kernels. `fallbacks`: what ran as stock PEFT
    has it, `kind: Class` or `packing`, and why. `packed`: whether rows lay end to end. `compared`:
    with stock PEFT on the run's own rows; not where stock PEFT has no room in the GPU's memory.
    """

    file: ClassVar[str] = "kernels.json"

    kernels: dict[str, int]
    fallbacks: dict[str, str]
    packed: bool
    compared: bool = True

    def lines(self) -> list[str]:
        """What is not as a user would expect it, for a person."""
        stock = [
            f"Stock PEFT, not on our kernels: {name} ({why})"
            for name, why in self.fallbacks.items()
        ]
        return stock + [
            "The kernels were not compared with stock PEFT, which has no room in memory"
        ] * (not self.compared)

"""Handwritten digits, 8 × 8 pixels of 0 to 16, as 64 numbers; in scikit-learn since 2010."""

from trivet.data.dataset import Splits
from trivet.data.source import Source
from trivet.plugins import SOURCES
from trivet.records.dataset import DataCard


class Digits(Source):
    name = "digits"

    def build(self) -> tuple[Splits, DataCard]:
        from sklearn.datasets import load_digits

        table = load_digits()
        rows = [
            {"x": pixels, "label": str(digit)}
            for pixels, digit in zip(table.data.astype(int).tolist(), table.target, strict=True)
        ]
        origin = {"package": "scikit-learn"}
        return self.at_random(rows, origin=origin, licence="CC BY 4.0 (UCI)")


SOURCES.add(Digits())

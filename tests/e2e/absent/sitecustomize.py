"""Python as if packages were not installed: neither their modules nor their metadata are found.

TRIVET_TEST_ABSENT names distributions, TRIVET_TEST_ABSENT_MODULES their top-level modules.
"""

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, DistributionFinder
from typing import Any

PACKAGES = set(os.environ.get("TRIVET_TEST_ABSENT", "").split())
MODULES = set(os.environ.get("TRIVET_TEST_ABSENT_MODULES", "").split())


class Present(PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] in MODULES:
            return None
        return super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(  # type: ignore[override]
        cls,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008
    ) -> Iterator[Distribution]:
        for found in super().find_distributions(context):
            if found.name.lower().replace("_", "-") not in PACKAGES:
                yield found


sys.meta_path[sys.meta_path.index(PathFinder)] = Present  # type: ignore[arg-type]

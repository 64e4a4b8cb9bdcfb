"""What a run makes: each artifact says what it depends on, and how it is built.

Key, cache, progress, publishing and upload ask it, and know no artifact by name. An artifact is a
folder in the store, whole or absent.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe
    from trivet.records.score import Point

HOUR = 3600


@dataclass(frozen=True)
class Watch:
    """Who hears of long work: `on_progress` the share done, 0-1; `on_point` each training step;
    `on_note` what is not as its user would expect it, in a line.
    """

    on_progress: Callable[[float], None] = lambda share: None
    on_point: "Callable[[Point], None]" = lambda point: None
    on_note: Callable[[str], None] = lambda line: None


class Artifact(ABC):
    """A registered artifact.

    `title`: the work in words, as the UI shows it; {recipe} is the recipe's name. `resume`: what a
    killed build left behind is handed to the next. `optional`: its tool may fail; what is made from
    it is then missing, and the run is refused by name, but all else goes on. `beside`: built while
    the run goes on. `on_gpu`: takes the GPU where there is one. `kept_inside`: is not shown in the
    run's folder. `timeout`: seconds. `needs`: packages without which it cannot be built, where an
    extra brings them.
    """

    name: str
    title: str
    resume: ClassVar[bool] = False
    optional: ClassVar[bool] = False
    beside: ClassVar[bool] = False
    on_gpu: ClassVar[bool] = False
    kept_inside: ClassVar[bool] = False
    timeout: ClassVar[int] = HOUR
    needs: ClassVar[tuple[str, ...]] = ()

    def wanted(self, recipe: "Recipe") -> bool:
        """Whether a recipe's run makes it."""
        return True

    def parents(self, recipe: "Recipe") -> "tuple[Artifact, ...]":
        return ()

    def settings(self, run: "Run") -> dict[str, Any]:
        """What of recipe and data changes its bytes, as JSON. Its parents' own is in their keys."""
        return {}

    def decide(self, recipe: "Recipe", root: Path) -> dict[str, str]:
        """What the machine or the hub decides, in words: asked once a run, and in the key."""
        return {}

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        """Modules whose code makes its bytes; what they import is found from there."""
        return (type(self).__module__,)

    @abstractmethod
    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        """Write the artifact's files into `folder`."""

"""The base model as it came, asked the same rows: what tuning is to be better than, for replies."""

from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import HOUR, Watch
from trivet.evaluate.baseline import BaselineArtifact, Rows
from trivet.plugins import ARTIFACTS
from trivet.records.card import Base, Card
from trivet.records.score import Metric
from trivet.tasks.generate import Generate
from trivet.tasks.tally import Tally
from trivet.tuning.adapter import ADAPTER

if TYPE_CHECKING:
    from trivet.artifacts.run import Run


class UntunedBaseline(BaselineArtifact):
    name = "baseline-untuned"
    words = "the untuned base"
    task = Generate
    on_gpu = True
    timeout = 6 * HOUR

    def settings(self, run: "Run") -> dict[str, Any]:
        tokens = run.recipe.data.model_dump(include={"prompt", "max_length"})
        return super().settings(run) | tokens | {"base": run.decided[ADAPTER.name]["base"]}

    def score(self, run: "Run", rows: Rows, watch: Watch) -> tuple[Tally, Metric]:
        from trivet.backends.sessions.torch_model import TorchModel
        from trivet.evaluate.score import ask
        from trivet.plugins import TASKS
        from trivet.tuning import base
        from trivet.tuning.batch import best_device

        want = run.recipe.data
        task = TASKS[want.task]
        card = Card(
            task=task.name,
            prompt=want.prompt,
            max_length=want.max_length,
            labels=[],
            model=Base.model_validate_json(run.decided[ADAPTER.name]["base"]),
        )
        source, remote = base.base_folder(card.model), card.model.trust_remote_code
        tokenizer = base.tokenizer_of(source, remote)
        model = base.load(source, task, [], device=best_device(), trust_remote_code=remote)
        session = TorchModel(model, tokenizer, card)
        answers = ask(session, rows["test"], task, watch.on_progress)
        examples = task.tokenize(rows["test"], card, [], tokenizer).examples
        return task.metrics(answers, [e.targets for e in examples], rows["test"], [])


ARTIFACTS.add(UntunedBaseline())

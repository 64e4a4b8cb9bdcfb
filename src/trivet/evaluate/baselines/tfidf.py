"""TF-IDF of words and characters into logistic regression: what anybody would try first."""

from typing import TYPE_CHECKING, Any

from trivet.evaluate.baseline import Labelling, Rows, labels, logistic_regression, texts
from trivet.plugins import ARTIFACTS
from trivet.tasks.classify import Classify

if TYPE_CHECKING:
    from trivet.artifacts.run import Run


class TfidfBaseline(Labelling):
    name = "baseline-tfidf"
    words = "TF-IDF + logistic regression"
    task = Classify

    def answer(self, run: "Run", rows: Rows) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline, make_union

        tfidf = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        model = make_pipeline(tfidf, logistic_regression(10.0))
        return model.fit(texts(rows, "train"), labels(rows)).predict(texts(rows, "test"))


TFIDF = ARTIFACTS.add(TfidfBaseline())

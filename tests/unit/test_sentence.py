"""A sentence encoder's pooling as a stock layer: the embedding of the real all-MiniLM, by the mean
of its tokens' states as its authors compute it, and by the stock pooler of the folder that we
write; alone and in a padded batch. Run: pytest tests/unit/test_sentence.py
"""

from pathlib import Path

import pytest
import torch
import transformers
from torch.nn import functional as F

from trivet.plugins import TASKS
from trivet.tuning import sentence
from trivet.tuning.methods.full import Full
from trivet.tuning.packaged import unpacked

TEXTS = ["turn on the light", "play some jazz in the kitchen", "what time is it"]


@pytest.fixture(scope="module")
def raw() -> Path:
    return unpacked("all-minilm-l6-v2")


@pytest.fixture(scope="module")
def pooled(raw: Path) -> Path:
    assert sentence.pools_by_mean(raw)
    return sentence.with_pooling(raw, "of-a-test")


def test_the_stock_pooler_gives_the_mean_of_the_tokens(raw: Path, pooled: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(raw)
    theirs = transformers.AutoModel.from_pretrained(raw).eval()
    ours = transformers.AutoModel.from_pretrained(pooled).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = theirs(**batch).last_hidden_state, batch["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        together = ours(**batch).pooler_output
        alone = torch.cat([ours(**tokenizer(t, return_tensors="pt")).pooler_output for t in TEXTS])
    # tanh bends what is 2 standard deviations out by a tenth, and a token leaves one part in 100
    assert (F.cosine_similarity(mean, together) > 0.99).all()
    assert torch.allclose(alone, together, atol=1e-5)
    first = ours(**batch).last_hidden_state[:, 0]
    assert (F.cosine_similarity(mean, first) > 0.99).all()


def test_what_is_no_sentence_encoder_has_no_pooling(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    assert not sentence.pools_by_mean(tmp_path)


def test_label_names_alone_tell_labels_apart(pooled: Path) -> None:
    """Without any training: each text is nearest to the label that a person would give it."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(pooled, num_labels=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pooled)
    rows = sentence.label_rows(model.eval(), tokenizer, ["lights on", "music", "clock"])
    with torch.no_grad():
        model.classifier.weight.copy_(rows)
        model.classifier.bias.zero_()
        logits = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    assert logits.argmax(1).tolist() == [0, 1, 2]
    assert logits.abs().max() <= sentence.COSINES * 1.1  # a cosine is at most 1


def test_full_tuning_reaches_every_weight_and_reopens_in_stock_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    config = transformers.BertConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=50,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    adapted = Full(epochs=1).adapt(model, TASKS["classify"]).eval()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(
        p.numel()
        for p in transformers.BertForSequenceClassification.from_pretrained(
            tmp_path / "base"
        ).parameters()
    )
    with torch.no_grad():
        for weight in trained:
            weight += 0.1 * torch.randn_like(weight)
    ids = torch.arange(6)[None]
    logits = adapted(input_ids=ids).logits
    adapted.save_pretrained(tmp_path / "adapter")
    base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert torch.equal(again(input_ids=ids).logits, logits)
    merged = again.merge_and_unload()
    assert isinstance(merged, transformers.BertForSequenceClassification)
    assert torch.equal(merged(input_ids=ids).logits, logits)

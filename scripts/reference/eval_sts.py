#!/usr/bin/env python3
"""Measure a model on sentence pairs with similarity scores, as STS does.

The input is a CSV file without a header: sentence, sentence, score. Prints one
JSON object with the Spearman and Pearson correlations of the cosine with the
score.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
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


def read_pairs(path: Path, header: bool) -> tuple[list[str], list[str], list[float]]:
    """Read the two sentences and the score of every row."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    rows = rows[1:] if header else rows
    return (
        [row[0] for row in rows],
        [row[1] for row in rows],
        [float(row[2]) for row in rows],
    )


def main() -> None:
    """Encode both columns and correlate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="sentence-transformers directory")
    parser.add_argument("input", type=Path, help="CSV file")
    parser.add_argument("--header", action="store_true", help="skip the first row")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument(
        "--cosines", type=Path, help="write the cosine of every pair here (.json)"
    )
    arguments = parser.parse_args()

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    first, second, scores = read_pairs(arguments.input, arguments.header)
    model = SentenceTransformer(arguments.model, device="cpu", local_files_only=True)
    model.float().eval()
    start = time.perf_counter()
    options = {"batch_size": arguments.batch_size, "show_progress_bar": False}
    left = model.encode(first, **options).astype(np.float64)
    right = model.encode(second, **options).astype(np.float64)
    seconds = time.perf_counter() - start
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = (left * right).sum(axis=1) / norms
    if arguments.cosines:
        arguments.cosines.write_text(
            json.dumps(cosines.tolist()) + "\n", encoding="utf-8"
        )
    report = {
        "pairs": len(scores),
        "spearman": float(stats.spearmanr(cosines, scores).statistic),
        "pearson": float(stats.pearsonr(cosines, scores).statistic),
        "seconds": round(seconds, 3),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

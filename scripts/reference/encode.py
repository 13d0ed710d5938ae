#!/usr/bin/env python3
"""Embed one column of a CSV file with sentence-transformers, in single precision.

Prints one JSON object: how many sentences, the seconds the encoding took
without loading the model, sentences a second, and the library versions.
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
import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize


def versions() -> dict[str, str]:
    """Name the libraries whose numbers are printed."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "numpy": np.__version__,
    }


def read_column(path: Path, column: str, header: bool) -> list[str]:
    """Read one column by its number from 0 or, where there is a header, its name."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    names = rows.pop(0) if header and rows else []
    if column in names:
        index = names.index(column)
    elif column.isdigit():
        index = int(column)
    else:
        raise SystemExit(f"{path} has no column {column!r}; it has {names}")
    return [row[index] for row in rows]


def load(folder: str, unnormalized: bool) -> SentenceTransformer:
    """Load a model directory for inference, on request without normalisation."""
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    if unnormalized:
        kept = [module for module in model if not isinstance(module, Normalize)]
        model = SentenceTransformer(modules=kept, device="cpu")
    return model.float().eval()


def token_ids(model: SentenceTransformer, sentences: list[str]) -> list[list[int]]:
    """Tokenize each sentence on its own, truncated as the model truncates it."""
    encoded = model.tokenizer(
        sentences,
        padding=False,
        truncation="longest_first",
        max_length=model.max_seq_length,
    )
    return encoded["input_ids"]


def main() -> None:
    """Encode and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="sentence-transformers directory")
    parser.add_argument("input", type=Path, help="CSV file")
    parser.add_argument("--column", default="0", help="column name or number from 0")
    parser.add_argument(
        "--no-header", action="store_true", help="the first row is a sentence too"
    )
    parser.add_argument(
        "--output", type=Path, help="write the embeddings here (.npy, float32)"
    )
    parser.add_argument(
        "--unnormalized", action="store_true", help="leave the Normalize module out"
    )
    parser.add_argument(
        "--token-ids", type=Path, help="write the unpadded token ids here (.json)"
    )
    parser.add_argument("--prompt-name", help="name of a prompt to put in front")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--limit", type=int, help="encode only the first rows")
    arguments = parser.parse_args()

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    sentences = read_column(arguments.input, arguments.column, not arguments.no_header)
    sentences = sentences[: arguments.limit]
    model = load(arguments.model, arguments.unnormalized)
    start = time.perf_counter()
    embeddings = model.encode(
        sentences,
        batch_size=arguments.batch_size,
        prompt_name=arguments.prompt_name,
        convert_to_numpy=True,
        show_progress_bar=False,
    )
    seconds = time.perf_counter() - start
    if embeddings.dtype != np.float32:
        raise SystemExit(f"the embeddings are {embeddings.dtype}, not float32")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        np.save(arguments.output, embeddings)
    if arguments.token_ids:
        ids = token_ids(model, sentences)
        arguments.token_ids.parent.mkdir(parents=True, exist_ok=True)
        arguments.token_ids.write_text(json.dumps(ids) + "\n", encoding="utf-8")
    report = {
        "sentences": len(sentences),
        "shape": list(embeddings.shape),
        "normalized": not arguments.unnormalized,
        "max_seq_length": model.max_seq_length,
        "batch_size": arguments.batch_size,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(sentences) / seconds, 1),
        "versions": versions(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

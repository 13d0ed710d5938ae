#!/usr/bin/env python3
"""Load adapters that `fin fit --lora-output` wrote with PEFT, and compare embeddings.

    fin fit --model MODEL --lora 4 --lora-output ADAPTERS --output TUNED ...
    fin encode texts.txt --model TUNED --output tuned.npy
    peft_adapters.py MODEL ADAPTERS texts.txt tuned.npy

MODEL is a directory of sentence-transformers. Its network gets the adapters by
`PeftModel.from_pretrained`; what it then embeds must be what the tuned model
embeds, in which the adapters are part of the weights. Exits with 1 where the
largest difference is above the tolerance, or where the adapters change nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from peft import PeftModel, __version__
from sentence_transformers import SentenceTransformer


def main() -> int:
    """Compare, and say how far apart the embeddings are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("adapters")
    parser.add_argument("texts", type=Path, help="a text a line")
    parser.add_argument("embeddings", type=Path, help="those of the tuned model, .npy")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()

    texts = args.texts.read_text(encoding="utf-8").splitlines()
    expected = np.load(args.embeddings)
    model = SentenceTransformer(args.model, device="cpu")
    before = model.encode(texts, batch_size=1)
    adapted = PeftModel.from_pretrained(model[0].auto_model, args.adapters)
    count = sum("lora_" in name for name, _ in adapted.named_parameters())
    model[0].auto_model = adapted.eval()
    found = model.encode(texts, batch_size=1)
    model[0].auto_model = adapted.merge_and_unload()
    merged = model.encode(texts, batch_size=1)

    differences = {
        "adapters beside the weights": np.abs(found - expected).max(),
        "adapters merged by PEFT": np.abs(merged - expected).max(),
    }
    moved = np.abs(found - before).max()
    print(f"PEFT {__version__}, {count} matrices, {len(texts)} texts")
    print(f"largest change by the adapters: {moved:.3e}")
    for name, difference in differences.items():
        print(f"largest difference, {name}: {difference:.3e}")
    if count == 0 or moved < 100 * args.tolerance:
        print("the adapters change nothing", file=sys.stderr)
        return 1
    return int(max(differences.values()) > args.tolerance)


if __name__ == "__main__":
    sys.exit(main())

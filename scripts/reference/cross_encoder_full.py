#!/usr/bin/env python3
"""Make a cross-encoder at the size of a published one, and its reference.

The architecture is that of `cross-encoder/ms-marco-MiniLM-L6-v2`; the weights are
random and seeded, and are saved by the libraries that publish the real ones. The
vocabulary is made up (`w0`, `w1`, …) and as long as the real one.

Writes into OUT/NAME:

  model/          the directory, as the library saves it
  pairs.jsonl     pairs of texts, of a few tokens up to more than the limit
  scores.json     logits and scores by sentence-transformers, and library versions

    python scripts/reference/cross_encoder_full.py --out OUT
    FIN_FULL_SIZE=OUT/ms-marco-minilm-l6-v2 cargo test --workspace --test full_size -- \\
        --ignored --nocapture --exact cross_encoder
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from sentence_transformers import CrossEncoder

SEED = 7
NAME = "ms-marco-minilm-l6-v2"
VOCABULARY = 30522
LENGTHS = (1, 5, 12, 40, 120, 250, 300, 600)
IDENTITY = "torch.nn.modules.linear.Identity"


def main() -> None:
    """Write the model and its reference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out / NAME
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = VOCABULARY - len(specials)
    words = [f"w{index}" for index in range(known)]
    vocabulary = {token: index for index, token in enumerate(specials + words)}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, model_max_length=512)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
    )
    config.sentence_transformers = {"activation_fn": IDENTITY, "version": "4.1.0"}
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
        # The usual initialisation of a head has all scores next to zero.
        model.classifier.weight.mul_(50)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        shutil.copytree(scratch, out / "model")

    generator = torch.Generator().manual_seed(SEED)

    def text(length: int) -> str:
        numbers = torch.randint(0, known, (length,), generator=generator).tolist()
        return " ".join(f"w{number}" for number in numbers)

    pairs = [[text(a), text(b)] for a in LENGTHS for b in LENGTHS]
    (out / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    encoder = CrossEncoder(str(out / "model"), device="cpu", local_files_only=True)
    identity = torch.nn.Identity()
    reference = {
        "versions": {
            name: version(name) for name in ("torch", "transformers", "sentence-transformers")
        },
        "logits": [float(x) for x in encoder.predict(pairs, activation_fn=identity)],
        "scores": [float(x) for x in encoder.predict(pairs)],
    }
    (out / "scores.json").write_text(json.dumps(reference) + "\n")
    logits = torch.tensor(reference["logits"])
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    print(reference["versions"], parameters, logits.min(), logits.max())


if __name__ == "__main__":
    main()

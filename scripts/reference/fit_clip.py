#!/usr/bin/env python3
"""Train a CLIP model of `transformers` on rows of a text and an image, as `fin fit --loss clip` does.

The model directory is one that `fin init` wrote, so that both begin with the same
weights; the order of the rows is this script's own. The recipe is fin's:

- images resized and cropped as `preprocessor_config.json` says, texts cut to the
  model's length, the loss over cosines both ways;
- batches in which neither a text nor an image occurs twice;
- AdamW with a weight decay of 0.01 on all but biases and normalisations, a linear
  warm-up over the first tenth of the steps and a linear decay to nothing after it,
  gradients clipped to a global norm of 1;
- a temperature that is learned by an AdamW of its own, at 0.01 without decay and
  clipping, and kept below a scale of 100.

Prints one JSON object with the recall of the evaluation rows both ways before and
after, the losses and the time.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

CUTOFFS = (1, 5, 10)


def read_rows(path: Path) -> list[tuple[str, Path]]:
    """Read rows of text and image, the latter relative to the file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [(text, path.parent / image) for text, image in rows]


class Data:
    """Rows with their texts as ids and their images as pixels, each once."""

    def __init__(self, rows: list[tuple[str, Path]], model: Path, length: int) -> None:
        """Tokenise and decode everything."""
        texts = list(dict.fromkeys(text for text, _ in rows))
        images = list(dict.fromkeys(image for _, image in rows))
        tokenizer = CLIPTokenizer.from_pretrained(model)
        processor = CLIPImageProcessorPil.from_pretrained(model)
        found = tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        self.ids = found["input_ids"]
        self.lengths = found["attention_mask"].sum(dim=1)
        self.pixels = processor([Image.open(path) for path in images], return_tensors="pt")[
            "pixel_values"
        ]
        text_places = {text: i for i, text in enumerate(texts)}
        image_places = {image: i for i, image in enumerate(images)}
        self.rows = [(text_places[text], image_places[image]) for text, image in rows]

    def cut(self, texts: torch.Tensor) -> torch.Tensor:
        """Give the ids of some texts as long as the longest; nothing sees what is padded."""
        return self.ids[texts, : self.lengths[texts].max()]

    def batches(self, size: int, shuffle: random.Random) -> list[list[tuple[int, int]]]:
        """Draw an epoch of batches without a text or an image twice."""
        left = self.rows.copy()
        shuffle.shuffle(left)
        batches = []
        while left:
            batch, texts, images, passed = [], set(), set(), []
            for text, image in left:
                if len(batch) == size or text in texts or image in images:
                    passed.append((text, image))
                    continue
                batch.append((text, image))
                texts.add(text)
                images.add(image)
            batches.append(batch)
            left = passed
        return batches


def embed(model: CLIPModel, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Give unit vectors of all texts and all images."""
    model.eval()
    with torch.inference_mode():
        texts = [model.get_text_features(part) for part in data.ids.split(64)]
        images = [model.get_image_features(part) for part in data.pixels.split(64)]
    texts, images = (
        torch.cat([getattr(each, "pooler_output", each) for each in parts])
        for parts in (texts, images)
    )
    return tuple(torch.nn.functional.normalize(each.double()) for each in (texts, images))


def measure(model: CLIPModel, data: Data) -> dict[str, float]:
    """Give the recall both ways; every item has one of the other kind."""
    texts, images = embed(model, data)
    scores = torch.stack([texts[text] for text, _ in data.rows]) @ images.T
    right = torch.tensor([image for _, image in data.rows])
    metrics = {}
    for name, scores, right in (
        ("text-to-image", scores, right),
        ("image-to-text", scores[right.argsort()].T, torch.arange(len(right))),
    ):
        own = scores.gather(1, right[:, None])
        better = (scores > own).sum(dim=1)
        for k in CUTOFFS:
            metrics[f"{name} recall@{k}"] = (better < k).double().mean().item()
    return metrics


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    model = CLIPModel.from_pretrained(arguments.model)
    length = model.config.text_config.max_position_embeddings
    train = Data(read_rows(arguments.train), arguments.model, length)
    held_out = Data(read_rows(arguments.eval), arguments.model, length)
    before = measure(model, held_out)

    shuffle = random.Random(arguments.seed)
    epochs = [train.batches(arguments.batch_size, shuffle) for _ in range(arguments.epochs)]
    steps = sum(map(len, epochs))
    warm_up = math.ceil(0.1 * steps)

    def factor(step: int) -> float:
        if step < warm_up:
            return step / max(1, warm_up)
        return max(0.0, (steps - step) / max(1, steps - warm_up))

    named = [(n, p) for n, p in model.named_parameters() if n != "logit_scale"]
    plain = [p for n, p in named if n.endswith("bias") or "norm" in n]
    decayed = [p for n, p in named if not (n.endswith("bias") or "norm" in n)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=arguments.learning_rate,
    )
    scale_optimizer = torch.optim.AdamW([model.logit_scale], lr=0.01, weight_decay=0.0)
    losses, step, begin = [], 0, time.perf_counter()
    model.train()
    for batches in epochs:
        for batch in batches:
            now = factor(step)
            for group in optimizer.param_groups:
                group["lr"] = arguments.learning_rate * now
            for group in scale_optimizer.param_groups:
                group["lr"] = 0.01 * now
            texts, images = (torch.tensor(each) for each in zip(*batch, strict=True))
            output = model(input_ids=train.cut(texts), pixel_values=train.pixels[images])
            loss = image_text_contrastive_loss(output.logits_per_text)
            optimizer.zero_grad()
            scale_optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
            optimizer.step()
            scale_optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0.0, math.log(100.0))
            losses.append(loss.item())
            step += 1
    seconds = time.perf_counter() - begin
    after = measure(model, held_out)
    if arguments.save:
        model.save_pretrained(arguments.save)
    json.dump(
        {
            "python": sys.version.split()[0],
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "threads": torch.get_num_threads(),
            "steps": steps,
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "logit_scale": model.logit_scale.item(),
            "seconds": seconds,
            "before": before,
            "after": after,
        },
        sys.stdout,
        indent=2,
    )
    print()


if __name__ == "__main__":
    main()

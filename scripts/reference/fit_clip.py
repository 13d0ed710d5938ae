#!/usr/bin/env python3
"""Train a CLIP model on rows of a text and an image, as `fin fit --loss clip` does.

The model directory is one that `fin init` wrote, so that both begin with the same
weights, in the form of `transformers` or, with an `open_clip_config.json`, of
open_clip with a text tower of `transformers`. The order of the rows is this
script's own. The recipe is fin's:

- images resized and cropped as the directory says, texts cut to the model's
  length, the loss over cosines both ways;
- batches in which neither a text nor an image occurs twice;
- AdamW with a weight decay of 0.01 on all but biases and normalisations, a linear
  warm-up over the first tenth of the steps and a linear decay to nothing after it,
  gradients clipped to a global norm of 1;
- a temperature that is learned by an AdamW of its own, at 0.01 without decay and
  clipping, and kept below a scale of 100.

Prints one JSON object with the recall of the evaluation rows both ways before and
after, the losses and the time; with several files to measure on, the recall of each
under the name of the file.
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


class Transformers(torch.nn.Module):
    """A model directory of `transformers`."""

    library = "transformers"

    def __init__(self, folder: Path) -> None:
        """Load weights, tokenizer and preprocessing."""
        super().__init__()
        self.model = CLIPModel.from_pretrained(folder).float()
        self.length = self.model.config.text_config.max_position_embeddings
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    @property
    def logit_scale(self) -> torch.nn.Parameter:
        """Give the logarithm of what cosines are multiplied by."""
        return self.model.logit_scale

    def read_texts(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give ids of the model's length, and how many of them are not padding."""
        found = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return found["input_ids"], found["attention_mask"].sum(dim=1)

    def read_images(self, images: list[Image.Image]) -> torch.Tensor:
        """Give pixels, [images, 3, height, width]."""
        return self.processor(images, return_tensors="pt")["pixel_values"]

    def texts(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids, not scaled to unit length."""
        found = self.model.get_text_features(ids)
        return getattr(found, "pooler_output", found)

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pixels, not scaled to unit length."""
        found = self.model.get_image_features(pixels)
        return getattr(found, "pooler_output", found)

    def save(self, folder: Path) -> None:
        """Write a model directory."""
        self.model.save_pretrained(folder)


class OpenClip(torch.nn.Module):
    """A model directory of open_clip whose text tower is of `transformers`."""

    library = "open_clip_torch"

    def __init__(self, folder: Path) -> None:
        """Load weights, tokenizer and preprocessing."""
        super().__init__()
        from open_clip.model import CustomTextCLIP
        from open_clip.tokenizer import HFTokenizer
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from safetensors.torch import load_file

        description = json.loads((folder / "open_clip_config.json").read_text())
        config = description["model_cfg"]
        text, size = config["text_cfg"], config["vision_cfg"]["image_size"]
        self.length = text.pop("context_length")
        # Of the directory rather than of the hub.
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
        text.pop("hf_tokenizer_name", None)
        self.model = CustomTextCLIP(**config)
        self.model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
        self.tokenizer = HFTokenizer(str(folder), context_length=self.length)
        self.padding = self.model.text.config.pad_token_id
        preprocessing = PreprocessCfg(**{"size": size, **description["preprocess_cfg"]})
        self.transform = image_transform_v2(preprocessing, is_train=False)

    @property
    def logit_scale(self) -> torch.nn.Parameter:
        """Give the logarithm of what cosines are multiplied by."""
        return self.model.logit_scale

    def read_texts(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give ids of the model's length, and how many of them are not padding."""
        ids = self.tokenizer(texts)
        return ids, (ids != self.padding).sum(dim=1)

    def read_images(self, images: list[Image.Image]) -> torch.Tensor:
        """Give pixels, [images, 3, height, width]."""
        return torch.stack([self.transform(image) for image in images])

    def texts(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids, not scaled to unit length."""
        return self.model.encode_text(ids)

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pixels, not scaled to unit length."""
        return self.model.encode_image(pixels)

    def save(self, folder: Path) -> None:
        """Write the weights alone."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.model.state_dict(), folder / "open_clip_model.safetensors")


Model = Transformers | OpenClip


class Data:
    """Rows with their texts as ids and their images as pixels, each once."""

    def __init__(self, rows: list[tuple[str, Path]], model: Model) -> None:
        """Tokenise and decode everything."""
        texts = list(dict.fromkeys(text for text, _ in rows))
        images = list(dict.fromkeys(image for _, image in rows))
        self.ids, self.lengths = model.read_texts(texts)
        self.pixels = model.read_images([Image.open(path).convert("RGB") for path in images])
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


def embed(model: Model, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Give unit vectors of all texts and all images."""
    model.eval()
    with torch.inference_mode():
        texts = torch.cat([model.texts(part) for part in data.ids.split(64)])
        images = torch.cat([model.images(part) for part in data.pixels.split(64)])
    return tuple(torch.nn.functional.normalize(each.double()) for each in (texts, images))


def measure(model: Model, data: Data) -> dict[str, float]:
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


def is_plain(name: str) -> bool:
    """Say whether weight decay leaves a parameter alone: a bias, or part of a normalisation."""
    is_norm = "norm" in name.lower() or any(part.startswith("ln_") for part in name.split("."))
    return name.endswith("bias") or is_norm


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--eval", type=Path, required=True, nargs="+")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    is_open_clip = (arguments.model / "open_clip_config.json").is_file()
    model = OpenClip(arguments.model) if is_open_clip else Transformers(arguments.model)
    train = Data(read_rows(arguments.train), model)
    held_out = {path.stem: Data(read_rows(path), model) for path in arguments.eval}

    def measure_all() -> dict:
        found = {name: measure(model, data) for name, data in held_out.items()}
        return found if len(found) > 1 else next(iter(found.values()))

    before = measure_all()

    shuffle = random.Random(arguments.seed)
    epochs = [train.batches(arguments.batch_size, shuffle) for _ in range(arguments.epochs)]
    steps = sum(map(len, epochs))
    warm_up = math.ceil(0.1 * steps)

    def factor(step: int) -> float:
        if step < warm_up:
            return step / max(1, warm_up)
        return max(0.0, (steps - step) / max(1, steps - warm_up))

    named = [(n, p) for n, p in model.named_parameters() if p is not model.logit_scale]
    plain = [p for n, p in named if is_plain(n)]
    decayed = [p for n, p in named if not is_plain(n)]
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
            found = model.texts(train.cut(texts)), model.images(train.pixels[images])
            left, right = (torch.nn.functional.normalize(each, dim=-1) for each in found)
            loss = image_text_contrastive_loss(model.logit_scale.exp() * left @ right.T)
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
    after = measure_all()
    if arguments.save:
        model.save(arguments.save)
    json.dump(
        {
            "python": sys.version.split()[0],
            "versions": {name: version(name) for name in ("torch", "transformers", model.library)},
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

#!/usr/bin/env python3
"""Fine-tune EfficientNet-Lite on folders of images by class, as `fin fit` does it.

The network is efficientnet_lite_pytorch's without its classifier, the loss and
the miner are pytorch-metric-learning's, and the recipe is fin's:

- images are resized by cubics and cropped as the published weights ask for, both
  scaled along with `--image-size`;
- batch normalisation by the batch's statistics, stochastic depth of 0.2, and
  dropout before the projection alone, where there is one;
- batches of `--samples-per-class` images of each of some classes for
  `triplet_margin`, a shuffle cut up for `arc_face`;
- AdamW with a weight decay of 0.01 on all but biases and normalisations, a linear
  warm-up over the first tenth of the steps and a linear decay to nothing after
  it, gradients of the network clipped to a global norm of 1. Class vectors have
  an AdamW of their own at 0.01, without decay and clipping.

With `--freeze` the backbone's features are computed once and the projection alone
learns.

Prints one JSON object with the metrics of the test folder before and after, every
image being searched for among the others by cosine, the losses and the time.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from pytorch_metric_learning.losses import ArcFaceLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from torchvision import transforms
from torchvision.transforms import InterpolationMode

CUTOFFS = (1, 3, 5, 10)
# The crop of each network; images are resized to 32 pixels more before it.
CROPS = {f"lite{i}": crop for i, crop in enumerate((224, 240, 260, 280, 300))}
MEAN, STD = 127.0 / 255.0, 128.0 / 255.0
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
LIBRARIES = (
    "torch",
    "torchvision",
    "pytorch-metric-learning",
    "efficientnet-lite-pytorch",
    "pillow",
    "numpy",
)


class Embedder(torch.nn.Module):
    """Features of the backbone averaged over the map, and a projection of them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Load the backbone; a projection has new weights."""
        super().__init__()
        name = f"efficientnet-{arguments.architecture}"
        # The size is what the library pads for.
        self.backbone = EfficientNet.from_name(name, image_size=arguments.image_size)
        state = torch.load(arguments.weights, map_location="cpu", weights_only=True)
        self.backbone.load_state_dict(state)
        width = self.backbone._fc.in_features
        self.backbone._fc = torch.nn.Identity()
        self.frozen = arguments.freeze
        self.dropout = torch.nn.Dropout(self.backbone._global_params.dropout_rate)
        self.projection = None
        if arguments.output_dim:
            self.projection = torch.nn.Linear(width, arguments.output_dim)
            torch.nn.init.normal_(self.projection.weight, std=0.02)
            torch.nn.init.zeros_(self.projection.bias)
        self.width = arguments.output_dim or width
        self.backbone.requires_grad_(not self.frozen)
        # The same numbers in the layout that processors are faster in.
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Embedder:
        """Leave a frozen backbone in inference."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the backbone: [batch, 3, height, width] gives [batch, features]."""
        values = (pixels.float() / 255.0 - MEAN) / STD
        values = values.contiguous(memory_format=torch.channels_last)
        return self.backbone.extract_features(values).mean(dim=(2, 3))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Project features, where there is a projection."""
        if self.projection is None:
            return features
        return self.projection(self.dropout(features))

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Embed a batch of pixels, or of features made before."""
        return self.head(self.features(items) if items.dim() == 4 else items)


def read_folder(
    folder: Path, arguments: argparse.Namespace
) -> tuple[torch.Tensor, np.ndarray]:
    """Read images of a folder a class as bytes, with the number of each one's class."""
    size, crop = arguments.image_size, CROPS[arguments.architecture]
    # Halves go up.
    shorter = max(size, math.floor((crop + 32) * size / crop + 0.5))
    prepare = transforms.Compose(
        [
            transforms.Resize(shorter, InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.PILToTensor(),
        ]
    )
    images, labels = [], []
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for label, directory in enumerate(classes):
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                with Image.open(path) as image:
                    images.append(prepare(image.convert("RGB")))
                labels.append(label)
    if not images:
        raise SystemExit(f"{folder} has no folder with images in it")
    return torch.stack(images), np.array(labels)


def embed(model: Embedder, items: torch.Tensor) -> torch.Tensor:
    """Embed everything in inference mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part) for part in items.split(32)])


def measure(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Average the metrics over images that have others of their class."""
    unit = embeddings.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    # All but the image itself, which comes last; equal scores in the order of files.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :-1]
    hits = labels[order] == labels[:, None]
    others = hits.sum(axis=1)
    hits, others = hits[others > 0].astype(np.float64), others[others > 0]
    if not len(hits):
        raise SystemExit("every image is alone in its class")
    ranks = np.arange(1, hits.shape[1] + 1)
    gains = 1.0 / np.log2(ranks + 1)
    found = hits.cumsum(axis=1)
    precisions = (hits * found / ranks).cumsum(axis=1)
    gained, best = (hits * gains).cumsum(axis=1), gains.cumsum()
    first = 1.0 / (hits.argmax(axis=1) + 1)
    metrics = {}
    for k in CUTOFFS:
        at = min(k, hits.shape[1]) - 1
        reachable = np.minimum(others, k)
        rows = {
            "precision": found[:, at] / k,
            "recall": found[:, at] / others,
            "mrr": np.where(found[:, at] > 0, first, 0.0),
            "map": precisions[:, at] / reachable,
            "ndcg": gained[:, at] / best[reachable - 1],
        }
        metrics |= {f"{name}@{k}": float(row.mean()) for name, row in rows.items()}
    own = (np.arange(len(hits)), others - 1)
    metrics["r_precision"] = float((found[own] / others).mean())
    metrics["map@r"] = float((precisions[own] / others).mean())
    return metrics


def balanced_batches(
    labels: np.ndarray, batch_size: int, per_class: int, shuffle: random.Random
) -> list[list[int]]:
    """Draw an epoch of batches with as many images of each of their classes.

    Classes are shuffled and cut into groups, the last one filled up with the
    class's first; every batch takes a group of each of the classes with the most
    groups left. What is left of a single class at the end is left out.
    """
    classes = defaultdict(list)
    for index, label in enumerate(labels):
        classes[int(label)].append(index)
    groups = {}
    for label, members in classes.items():
        shuffle.shuffle(members)
        cut = [members[i : i + per_class] for i in range(0, len(members), per_class)]
        cut[-1] += members[: min(per_class, len(members)) - len(cut[-1])]
        groups[label] = cut
    batches = []
    while len(left := [label for label in groups if groups[label]]) >= 2:
        shuffle.shuffle(left)
        left.sort(key=lambda label: -len(groups[label]))
        chosen = left[: batch_size // per_class]
        batches.append([index for label in chosen for index in groups[label].pop()])
    shuffle.shuffle(batches)
    return batches


def shuffled_batches(
    count: int, batch_size: int, shuffle: random.Random
) -> list[list[int]]:
    """Draw an epoch of batches with every image once; the last may be smaller."""
    order = list(range(count))
    shuffle.shuffle(order)
    return [order[i : i + batch_size] for i in range(0, count, batch_size)]


def rate_factor(step: int, total: int) -> float:
    """Give the share of the full learning rate at a step counted from 0."""
    warmup = math.ceil(0.1 * total)
    if step < warmup:
        return step / warmup
    return (total - step) / max(1, total - warmup)


def make_optimizer(model: Embedder, rate: float) -> torch.optim.AdamW:
    """Set AdamW up without decay on biases and normalisations."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate)


def epochs(
    labels: np.ndarray, arguments: argparse.Namespace
) -> Iterator[list[list[int]]]:
    """Draw the batches of every epoch."""
    shuffle = random.Random(arguments.seed)
    for _ in range(arguments.epochs):
        if arguments.loss == "triplet_margin":
            yield balanced_batches(
                labels, arguments.batch_size, arguments.samples_per_class, shuffle
            )
        else:
            yield shuffled_batches(len(labels), arguments.batch_size, shuffle)


def train(
    model: Embedder,
    items: torch.Tensor,
    labels: np.ndarray,
    arguments: argparse.Namespace,
) -> list[float]:
    """Run the epochs and return the loss of every step."""
    class_vectors = None
    if arguments.loss == "triplet_margin":
        loss_of = TripletMarginLoss(margin=arguments.margin)
    else:
        loss_of = ArcFaceLoss(int(labels.max()) + 1, model.width)
        class_vectors = torch.optim.AdamW(
            loss_of.parameters(), lr=0.01, weight_decay=0.0
        )
    miner = BatchHardMiner() if arguments.miner == "batch_hard" else None
    optimizer = make_optimizer(model, arguments.lr)
    batches = [batch for epoch in epochs(labels, arguments) for batch in epoch]
    targets = torch.from_numpy(labels)
    losses = []
    model.train()
    for step, batch in enumerate(batches):
        factor = rate_factor(step, len(batches))
        optimizer.zero_grad(set_to_none=True)
        if class_vectors:
            class_vectors.zero_grad(set_to_none=True)
        embeddings, wanted = model(items[batch]), targets[batch]
        mined = miner(embeddings, wanted) if miner else None
        loss = loss_of(embeddings, wanted, mined)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * factor
        optimizer.step()
        if class_vectors:
            for group in class_vectors.param_groups:
                group["lr"] = 0.01 * factor
            class_vectors.step()
        losses.append(loss.item())
        if len(losses) % 20 == 0:
            mean = sum(losses[-20:]) / 20
            print(f"step {len(losses)}/{len(batches)} loss {mean:.4f}", file=sys.stderr)
    return losses


def main() -> None:
    """Evaluate, train, evaluate again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="published .pth of the network"
    )
    parser.add_argument(
        "--architecture", choices=sorted(CROPS), default="lite0", help="of the weights"
    )
    parser.add_argument(
        "--train", type=Path, required=True, help="folder with a folder a class"
    )
    parser.add_argument(
        "--test", type=Path, required=True, help="the like, to measure on"
    )
    parser.add_argument(
        "--image-size", type=int, help="height and width [default: the network's]"
    )
    parser.add_argument(
        "--loss", choices=["triplet_margin", "arc_face"], default="triplet_margin"
    )
    parser.add_argument("--margin", type=float, default=0.05, help="of triplet_margin")
    parser.add_argument("--miner", choices=["batch_hard"], help="in front of the loss")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--samples-per-class", type=int, default=4, help="for triplet_margin"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-5, help="largest learning rate")
    parser.add_argument(
        "--output-dim", type=int, help="add a projection to this many components"
    )
    parser.add_argument(
        "--freeze", action="store_true", help="train the projection alone"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    arguments = parser.parse_args()
    if arguments.freeze and not arguments.output_dim:
        parser.error("--freeze leaves nothing to train without --output-dim")
    if arguments.loss == "triplet_margin":
        if arguments.samples_per_class < 2:
            parser.error("--samples-per-class must be 2 or more")
        if arguments.batch_size < 2 * arguments.samples_per_class:
            parser.error("--batch-size must hold two classes of --samples-per-class")
    arguments.image_size = arguments.image_size or CROPS[arguments.architecture]

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = Embedder(arguments)
    items, labels = read_folder(arguments.train, arguments)
    held_out, held_out_labels = read_folder(arguments.test, arguments)
    begin = time.perf_counter()
    before = measure(embed(model, held_out).numpy(), held_out_labels)
    evaluation_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    if arguments.freeze:
        with torch.inference_mode():
            parts = [model.eval().features(part) for part in items.split(32)]
        items = torch.cat(parts).clone()
    losses = train(model, items, labels, arguments)
    seconds = time.perf_counter() - begin
    after = measure(embed(model, held_out).numpy(), held_out_labels)
    report = {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(arguments).items()
        },
        "examples": len(labels),
        "test_examples": len(held_out_labels),
        "steps": len(losses),
        "before": before,
        "after": after,
        "first_losses": losses[:10],
        "mean_loss_of_last_10_steps": sum(losses[-10:]) / max(1, len(losses[-10:])),
        "training_seconds": round(seconds, 1),
        "evaluation_seconds": round(evaluation_seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

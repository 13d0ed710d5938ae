#!/usr/bin/env python3
"""Fine-tune PointNet++ on clouds by class, as `fin fit` does it.

The network is pointnet.py's with the weights of a directory that fin wrote (`fin
init`), the loss is pytorch-metric-learning's, and the recipe is that of
fit_images.py: batches of `--samples-per-class` clouds of each of some classes in an
order of its own, AdamW with a weight decay of 0.01 on all but biases and
normalisations, a linear warm-up and a linear decay, gradients clipped to a global
norm of 1. Batch normalisation takes the batch's statistics.

Clouds are .npy files [points, 3], in a folder a class, whose points are taken as
they are, centred and scaled to the unit sphere. The example `sample_points` of
fin-pointnet writes them, the points that fin takes of the same meshes.

Prints one JSON object with the metrics of the test folder before and after, every
cloud being searched for among the others by cosine, the losses and the time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fit_images import balanced_batches, make_optimizer, measure, rate_factor
from pointnet import MSG, SSG, PointNet2
from pytorch_metric_learning.losses import TripletMarginLoss
from safetensors.torch import load_file

LIBRARIES = ("torch", "pytorch-metric-learning", "numpy")


class Embedder(torch.nn.Module):
    """The classifier up to its first stage, without the rectifier."""

    def __init__(self, folder: Path) -> None:
        """Load a directory of fin's."""
        super().__init__()
        config = json.loads((folder / "fin.json").read_text())
        shape = {"pointnet2_ssg": SSG, "pointnet2_msg": MSG}[config["architecture"]]
        if config["normals"] or config["output"] != "embedding" or config["relu"]:
            raise SystemExit(f"{folder} is another kind of model")
        self.network = PointNet2(shape, 1, normals=False)
        outcome = self.network.load_state_dict(
            load_file(folder / "model.safetensors"), strict=False
        )
        missing = {key.split(".")[0] for key in outcome.missing_keys}
        if outcome.unexpected_keys or missing != {"fc2", "bn2", "fc3"}:
            raise SystemExit(f"{folder} does not fit: {outcome}")
        # The end of the classifier has no part in this.
        for name in ("fc2", "bn2", "fc3"):
            self.network.get_submodule(name).requires_grad_(False)

    def forward(self, clouds: torch.Tensor) -> torch.Tensor:
        """Embed [batch, points, 3]; the network runs to its end, which takes little."""
        return self.network(clouds)["stage"]


def read_folder(folder: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Read clouds of a folder a class, with the number of each one's class."""
    clouds, labels = [], []
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for label, directory in enumerate(classes):
        for path in sorted(directory.rglob("*.npy")):
            xyz = np.load(path).astype(np.float64)
            xyz -= xyz.mean(0)
            clouds.append((xyz / np.linalg.norm(xyz, axis=1).max()).astype(np.float32))
            labels.append(label)
    if not clouds:
        raise SystemExit(f"{folder} has no folder with clouds in it")
    return torch.from_numpy(np.stack(clouds)), np.array(labels)


def embed(model: Embedder, clouds: torch.Tensor) -> np.ndarray:
    """Embed everything in inference mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part) for part in clouds.split(16)]).numpy()


def train(
    model: Embedder, clouds: torch.Tensor, labels: np.ndarray, arguments: argparse.Namespace
) -> list[float]:
    """Run the epochs and return the loss of every step."""
    loss_of = TripletMarginLoss(margin=arguments.margin)
    optimizer = make_optimizer(model, arguments.lr)
    shuffle = random.Random(arguments.seed)
    size, per_class = arguments.batch_size, arguments.samples_per_class
    batches = []
    for _ in range(arguments.epochs):
        batches += balanced_batches(labels, size, per_class, shuffle)
    targets = torch.from_numpy(labels)
    losses = []
    model.train()
    for step, batch in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(clouds[batch]), targets[batch])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * rate_factor(step, len(batches))
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 10 == 0:
            mean = sum(losses[-10:]) / 10
            print(f"step {len(losses)}/{len(batches)} loss {mean:.4f}", file=sys.stderr)
    return losses


def main() -> None:
    """Evaluate, train, evaluate again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="directory of fin's")
    parser.add_argument("--train", type=Path, required=True, help="folder with a folder a class")
    parser.add_argument("--test", type=Path, required=True, help="the like, to measure on")
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--samples-per-class", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = Embedder(arguments.model)
    clouds, labels = read_folder(arguments.train)
    held_out, held_out_labels = read_folder(arguments.test)
    before = measure(embed(model, held_out), held_out_labels)
    begin = time.perf_counter()
    losses = train(model, clouds, labels, arguments)
    seconds = time.perf_counter() - begin
    after = measure(embed(model, held_out), held_out_labels)
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
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

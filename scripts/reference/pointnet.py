#!/usr/bin/env python3
"""PointNet++ classifiers in PyTorch, and references of real size.

The networks compute what models/pointnet2_cls_ssg.py, pointnet2_cls_msg.py and
pointnet2_utils.py of https://github.com/yanx27/Pointnet_Pointnet2_pytorch
compute, under the same key names, but for two things: farthest point sampling
begins at a given point, not a random one, and neighbours are always looked for
in single precision, so that the layers can run in double.

    pointnet.py full DIR          four networks with random weights, clouds, features
    pointnet.py queries DIR       indices of 1,000 clouds
    pointnet.py load DIR          load a directory that fin saved, strictly but for the head
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SSG = {
    "grouping": "single_scale",
    "levels": [
        {"points": 512, "scales": [{"radius": 0.2, "neighbours": 32, "mlp": [64, 64, 128]}]},
        {"points": 128, "scales": [{"radius": 0.4, "neighbours": 64, "mlp": [128, 128, 256]}]},
    ],
    "global": [256, 512, 1024],
    "embedding_size": 512,
}
MSG = {
    "grouping": "multi_scale",
    "levels": [
        {
            "points": 512,
            "scales": [
                {"radius": 0.1, "neighbours": 16, "mlp": [32, 32, 64]},
                {"radius": 0.2, "neighbours": 32, "mlp": [64, 64, 128]},
                {"radius": 0.4, "neighbours": 128, "mlp": [64, 96, 128]},
            ],
        },
        {
            "points": 128,
            "scales": [
                {"radius": 0.2, "neighbours": 32, "mlp": [64, 64, 128]},
                {"radius": 0.4, "neighbours": 64, "mlp": [128, 128, 256]},
                {"radius": 0.8, "neighbours": 128, "mlp": [128, 128, 256]},
            ],
        },
    ],
    "global": [256, 512, 1024],
    "embedding_size": 512,
}


def take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of [batch, n, c] by [batch, ...]."""
    batch = torch.arange(values.shape[0]).view(-1, *[1] * (index.dim() - 1))
    return values[batch, index]


def squares(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squares of distances by a matrix product, in upstream's order."""
    found = torch.matmul(a, b.transpose(1, 2)) * -2
    found = found + (a**2).sum(-1)[:, :, None]
    return found + (b**2).sum(-1)[:, None, :]


def farthest(xyz: torch.Tensor, count: int, start: int = 0) -> torch.Tensor:
    """Farthest point sampling: [batch, count]."""
    batch, points, _ = xyz.shape
    nearest = torch.full((batch, points), 1e10)
    last = torch.full((batch,), start)
    chosen = []
    for _ in range(count):
        chosen.append(last)
        found = ((xyz - take(xyz, last)[:, None]) ** 2).sum(-1)
        closer = found < nearest
        nearest[closer] = found[closer]
        last = nearest.max(-1)[1]
    return torch.stack(chosen, 1)


def ball(radius: float, count: int, xyz: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Ball query: [batch, groups, count]."""
    points = xyz.shape[1]
    beyond = squares(centres, xyz) > radius**2
    index = torch.arange(points).expand(beyond.shape).masked_fill(beyond, points)
    index = index.sort(-1)[0][:, :, :count]
    return torch.where(index == points, index[:, :, :1], index)


class SetAbstraction(nn.Module):
    """One of upstream's PointNetSetAbstraction and PointNetSetAbstractionMsg."""

    def __init__(self, grouping: str, level: dict | None, mlps: list, inputs: int) -> None:
        super().__init__()
        self.grouping, self.level = grouping, level
        convs, norms = nn.ModuleList(), nn.ModuleList()
        for mlp in mlps:
            widths = [inputs, *mlp]
            convs.append(nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, mlp)))
            norms.append(nn.ModuleList(nn.BatchNorm2d(width) for width in mlp))
        if grouping == "single_scale":
            self.mlp_convs, self.mlp_bns = convs[0], norms[0]
        else:
            self.conv_blocks, self.bn_blocks = convs, norms

    def shared(self, scale: int, x: torch.Tensor) -> torch.Tensor:
        """Layers and maximum: [batch, groups, neighbours, in] to [batch, groups, out]."""
        if self.grouping == "single_scale":
            layers = zip(self.mlp_convs, self.mlp_bns)
        else:
            layers = zip(self.conv_blocks[scale], self.bn_blocks[scale])
        x = x.permute(0, 3, 2, 1)
        for conv, norm in layers:
            x = F.relu(norm(conv(x)))
        return x.max(2)[0].transpose(1, 2)

    def forward(self, xyz, points):  # noqa: ANN001, ANN201
        if self.level is None:
            rows = xyz if points is None else torch.cat([xyz, points], -1)
            return None, self.shared(0, rows[:, None])
        centres = take(xyz, farthest(xyz.float(), self.level["points"]))
        found = []
        for i, scale in enumerate(self.level["scales"]):
            near = ball(scale["radius"], scale["neighbours"], xyz.float(), centres.float())
            rows = take(xyz, near) - centres[:, :, None]
            if points is not None:
                order = [rows, take(points, near)]
                rows = torch.cat(order if self.grouping == "single_scale" else order[::-1], -1)
            found.append(self.shared(i, rows))
        return centres, torch.cat(found, -1)


class PointNet2(nn.Module):
    """The classifier; `forward` gives what every stage gives."""

    def __init__(self, config: dict, classes: int, normals: bool, hidden: int = 256) -> None:
        super().__init__()
        self.normals = normals
        channels = 3 if normals else 0
        self.count = len(config["levels"]) + 1
        for i, level in enumerate(config["levels"], 1):
            mlps = [scale["mlp"] for scale in level["scales"]]
            abstraction = SetAbstraction(config["grouping"], level, mlps, 3 + channels)
            self.add_module(f"sa{i}", abstraction)
            channels = sum(mlp[-1] for mlp in mlps)
        mlps = [config["global"]]
        abstraction = SetAbstraction("single_scale", None, mlps, 3 + channels)
        self.add_module(f"sa{self.count}", abstraction)
        width, embedding = config["global"][-1], config["embedding_size"]
        self.fc1, self.bn1 = nn.Linear(width, embedding), nn.BatchNorm1d(embedding)
        self.drop1 = nn.Dropout(0.4)
        self.fc2, self.bn2 = nn.Linear(embedding, hidden), nn.BatchNorm1d(hidden)
        self.drop2 = nn.Dropout(0.4)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of [batch, points, 3 or 6]."""
        xyz, points = x[..., :3], x[..., 3:] if self.normals else None
        stages = {}
        for i in range(1, self.count + 1):
            xyz, points = self.get_submodule(f"sa{i}")(xyz, points)
            if xyz is not None:
                stages[f"xyz.{i - 1}"], stages[f"features.{i - 1}"] = xyz, points
        stages["global"] = points[:, 0]
        stages["stage"] = self.bn1(self.fc1(stages["global"]))
        x = self.drop1(F.relu(stages["stage"]))
        x = self.drop2(F.relu(self.bn2(self.fc2(x))))
        stages["logits"] = F.log_softmax(self.fc3(x), -1)
        return stages


def randomize(model: nn.Module, seed: int) -> None:
    """Weights of a scale that keeps activations alive, and statistics as after training."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                weight = module.weight
                scale = (2 / weight[0].numel()) ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
                module.bias.copy_(uniform(module.bias, -0.2, 0.2))
            elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                module.weight.copy_(uniform(module.weight, 0.6, 1.4))
                module.bias.copy_(uniform(module.bias, -0.3, 0.3))
                module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
                module.running_var.copy_(uniform(module.running_var, 0.5, 1.5))
                module.num_batches_tracked.fill_(17)


def shapes(batch: int, points: int, seed: int) -> torch.Tensor:
    """Points with normals on the surfaces of ellipsoids and boxes, in the unit sphere."""
    random = np.random.default_rng(seed)
    clouds = np.zeros((batch, points, 6), np.float32)
    for i, cloud in enumerate(clouds):
        normals = random.normal(size=(points, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        xyz = normals
        if i % 2:
            xyz = random.uniform(-1, 1, size=(points, 3))
            face, side = random.integers(0, 3, points), random.choice([-1.0, 1.0], points)
            xyz[np.arange(points), face] = side
            normals = np.zeros((points, 3))
            normals[np.arange(points), face] = side
        xyz = xyz * random.uniform(0.3, 1, 3)
        xyz = xyz - xyz.mean(0)
        cloud[:, :3] = xyz / np.linalg.norm(xyz, axis=1).max()
        cloud[:, 3:] = normals
    return torch.from_numpy(clouds)


def training_checkpoint(model: nn.Module) -> dict:
    """What train_classification.py upstream saves."""
    # A rate of zero: the optimiser gets its state, and the weights stay.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, weight_decay=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    model.zero_grad()
    return {
        "epoch": 3,
        "instance_acc": np.mean([0.25, 0.75]),
        "class_acc": np.mean([0.5]),
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }


def full(out: Path) -> None:
    from safetensors.torch import save_file

    for seed, (name, config, normals, classes) in enumerate(
        [("ssg", SSG, False, 40), ("ssg_normals", SSG, True, 10), ("msg", MSG, False, 40), ("msg_normals", MSG, True, 40)]
    ):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        model = PointNet2(config, classes, normals)
        randomize(model, seed)
        saved = copy.deepcopy(model.state_dict())
        torch.save(training_checkpoint(model), folder / "best_model.pth")
        clouds = shapes(4, 2048, 100 + seed)
        clouds = clouds if normals else clouds[..., :3].contiguous()
        tensors = {"clouds": clouds}
        double = copy.deepcopy(model).double()
        for mode in ("eval", "train"):
            with torch.no_grad():
                found = double.train(mode == "train")(clouds.double())
                single = copy.deepcopy(model).train(mode == "train")(clouds)
            for key in ("global", "stage"):
                tensors[f"{mode}.{key}"] = found[key].float()
                error = (single[key] - found[key]).norm() / found[key].norm()
                tensors[f"{mode}.{key}.single"] = error.float().reshape(1)
                print(f"{name}, {mode}, {key}: single precision in PyTorch {error:.1e}")
            double.load_state_dict(saved)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "reference.safetensors")


def queries(out: Path) -> None:
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(5)
    for part in range(4):
        batch = 250
        uniform = torch.rand(batch // 2, 1024, 3, generator=random) * 2 - 1
        uniform = uniform / uniform.norm(dim=-1).amax(1)[:, None, None]
        clouds = torch.cat([uniform, shapes(batch // 2, 1024, part)[..., :3]])
        first = farthest(clouds, 512)
        centres = take(clouds, first)
        second = farthest(centres, 128)
        tensors = {"clouds": clouds, "first": first.int(), "second": second.int()}
        for radius, count in [(0.1, 16), (0.2, 32), (0.4, 128)]:
            tensors[f"first.{radius}"] = ball(radius, count, clouds, centres).int()
        for radius, count in [(0.2, 32), (0.4, 64), (0.8, 128)]:
            kept = take(centres, second)
            tensors[f"second.{radius}"] = ball(radius, count, centres, kept).int()
        tensors = {k: (v.long() if v.dtype == torch.int32 else v).contiguous() for k, v in tensors.items()}
        save_file(tensors, out / f"{part}.safetensors")


def load(folder: Path) -> None:
    """Loads what fin saved; nothing but the head may be missing."""
    from safetensors.torch import load_file

    config = json.loads((folder / "fin.json").read_text())
    shape = config["architecture"]
    shape = {"pointnet2_ssg": SSG, "pointnet2_msg": MSG}.get(shape) if isinstance(shape, str) else shape
    model = PointNet2(shape, 40, config["normals"])
    outcome = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    missing = {key.split(".")[0] for key in outcome.missing_keys}
    print(f"missing: {sorted(missing)}, unexpected: {outcome.unexpected_keys}")
    if outcome.unexpected_keys or missing != {"fc2", "bn2", "fc3"}:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["full", "queries", "load"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"full": full, "queries": queries, "load": load}[arguments.task](arguments.folder)


if __name__ == "__main__":
    main()

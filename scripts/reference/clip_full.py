#!/usr/bin/env python3
"""Write CLIP models of real size with the embeddings that they must give.

    clip_full.py OUT [MODEL ...]

For every model a folder of OUT gets a directory as its library writes it, with
seeded random weights, three images, and `reference.json` with the features and
logits that the library makes of the images and of a few texts. Models are the
catalogue's: clip-base-en and clip-large-en by `transformers`, clip-base-multi and
clip-huge-en by open_clip.

References are in double precision, those of clip-huge-en in single: twice its
weights do not fit in memory. CLIP's vocabulary is that of the open_clip package;
XLM-RoBERTa's is the part of it in `fixtures/tokenizers`.

`cargo test --release --workspace --test full_size -- --ignored clip` compares,
with FIN_CLIP_REFERENCE=OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import open_clip
import torch
import transformers
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, default_bpe
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SEED = 20240517
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
# Width first: odd numbers of pixels to cut, and one that is far taller than wide.
SIZES = [(640, 427), (300, 701), (224, 224)]
TEXTS = [
    "a photo of a cat on a wall",
    "Boats wait at the pier, in the rain.",
    "two dogs",
    " ".join(["a very long description of the weather"] * 20),
]
MULTILINGUAL = [*TEXTS[:2], "ein Boot am Steg", "两只狗", TEXTS[3]]
LARGE = {
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "projection_dim": 768,
}
MODELS = {
    "clip-base-en": {},
    "clip-large-en": LARGE,
    "clip-base-multi": "xlm-roberta-base-ViT-B-32",
    "clip-huge-en": "ViT-H-14",
}


def images(folder: Path) -> list[Path]:
    """Write smooth patterns with some noise."""
    random = np.random.default_rng(SEED)
    paths = []
    for number, (width, height) in enumerate(SIZES):
        y, x = np.mgrid[0:height, 0:width]
        waves = [
            np.sin(x / (23 + 9 * number) + y / (35 + channel) + channel) for channel in range(3)
        ]
        noise = random.normal(0, 12, (height, width, 3))
        pixels = 128 + 90 * np.stack(waves, axis=-1) + noise
        path = folder / f"{number}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def unsettle(model: nn.Module) -> None:
    """Move what is all zero or one at the start."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "class_embedding" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def from_transformers(folder: Path, config: dict, paths: list[Path]):  # noqa: ANN201
    """Make a model of `transformers` and save it."""
    configuration = transformers.CLIPConfig(**config)
    configuration.text_config.eos_token_id = 2
    model = transformers.CLIPModel(configuration).eval()
    unsettle(model)
    model.save_pretrained(folder / "model")
    shutil.copy(default_bpe(), folder / "model" / "bpe_simple_vocab_16e6.txt.gz")
    processor = CLIPImageProcessorPil()
    (folder / "model" / "preprocessor_config.json").write_text(
        json.dumps({"crop_size": 224, "size": 224, "resample": 3, "image_mean": MEAN, "image_std": STD})
    )
    pixels = processor([Image.open(path) for path in paths], return_tensors="pt")
    return (
        model,
        SimpleTokenizer()(TEXTS),
        pixels["pixel_values"],
        lambda ids: model.get_text_features(input_ids=ids).pooler_output,
        lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
    )


def from_open_clip(folder: Path, name: str, paths: list[Path]):  # noqa: ANN201
    """Make a model of open_clip and save it."""
    target = folder / "model"
    target.mkdir()
    cfg = open_clip.get_model_config(name)
    description = {
        "model_cfg": cfg,
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }
    (target / "open_clip_config.json").write_text(json.dumps(description))
    values = json.loads(json.dumps(cfg))
    if "hf_model_name" in values["text_cfg"]:
        # What the hub has under this name, less its weights.
        local = folder / "xlm-roberta-base"
        transformers.XLMRobertaConfig(
            vocab_size=250002,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        ).save_pretrained(local)
        values["text_cfg"] |= {"hf_model_name": str(local), "hf_model_pretrained": False}
        model = open_clip.CustomTextCLIP(**values).eval()
        source = Path(__file__).resolve().parent.parent.parent / "fixtures" / "tokenizers"
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / "unigram-xlm-roberta" / file, target / file)
        tokenizer, texts = HFTokenizer(str(target)), MULTILINGUAL
    else:
        model = open_clip.CLIP(**values).eval()
        shutil.copy(default_bpe(), target / "bpe_simple_vocab_16e6.txt.gz")
        tokenizer, texts = SimpleTokenizer(), TEXTS
    unsettle(model)
    from safetensors.torch import save_file

    save_file(model.state_dict(), target / "open_clip_model.safetensors")
    transform = image_transform_v2(PreprocessCfg(mean=MEAN, std=STD), is_train=False)
    pixels = torch.stack([transform(Image.open(path)) for path in paths])
    return model, tokenizer(texts), pixels, model.encode_text, model.encode_image


def write(out: Path, name: str) -> None:
    """Write one model's folder."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(SEED)
    paths = images(folder)
    make = from_open_clip if isinstance(MODELS[name], str) else from_transformers
    model, ids, pixels, text, image = make(folder, MODELS[name], paths)
    double = name != "clip-huge-en"
    with torch.no_grad():
        single = [text(ids), image(pixels)]
        if double:
            model.double()
            pixels = pixels.double()
        found = [text(ids), image(pixels)] if double else single
        unit = [nn.functional.normalize(rows, dim=-1) for rows in found]
        logits = model.logit_scale.exp() * unit[0] @ unit[1].T
    errors = None
    if double:
        pairs = zip(single, found, strict=True)
        errors = [float((a - b).norm() / b.norm()) for a, b in pairs]
    (folder / "reference.json").write_text(
        json.dumps(
            {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "open_clip": open_clip.__version__,
                "name": name,
                "images": [path.name for path in paths],
                "texts": MULTILINGUAL if len(ids) == len(MULTILINGUAL) else TEXTS,
                "precision": "float64" if double else "float32",
                "float32_relative_error": errors,
                "text_features": found[0].tolist(),
                "image_features": found[1].tolist(),
                "logits_per_text": logits.tolist(),
            }
        )
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {count} parameters, float32 is off by {errors}")


def main() -> None:
    """Write the folders that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    for name in arguments.models:
        write(arguments.out, name)


if __name__ == "__main__":
    main()

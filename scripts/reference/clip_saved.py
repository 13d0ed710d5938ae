#!/usr/bin/env python3
"""Open directories that fin wrote with the library of their dialect.

    scripts/reference/clip_saved.py FIXTURE DIRECTORY...

FIXTURE is the name of a model of `fixtures/clip`, of which the directories are
copies in any dialect (the example `dialect` of fin-clip writes them). Each is
loaded by `transformers`, open_clip or sentence-transformers and embeds the
fixture's images and token ids, and is compared with the fixture's references.
sentence-transformers takes texts and image files alone.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from PIL import Image
from safetensors.torch import load_file

FIXTURES = Path(__file__).resolve().parent.parent.parent / "fixtures" / "clip"


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error."""
    return float((found - expected).norm() / expected.norm())


def each(found: torch.Tensor, expected: torch.Tensor) -> str:
    """Return the relative error of every row."""
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return " ".join(f"{error:.1e}" for error in errors.tolist())


def padded(ids: list[list[int]], length: int, padding: int) -> torch.Tensor:
    """Return token ids as a tensor."""
    return torch.tensor([row + [padding] * (length - len(row)) for row in ids])


def check(fixture: str, directory: Path) -> None:
    """Compare one directory."""
    reference = load_file(FIXTURES / f"{fixture}.reference.safetensors")
    description = json.loads((FIXTURES / f"{fixture}.reference.json").read_text())
    pixels, ids, texts = reference["pixels"], description["ids"], description["texts"]
    if (directory / "open_clip_config.json").is_file():
        import open_clip

        # Where the text tower's own configuration is asked of the hub by a name, the directory
        # has it: the name is a link to it.
        config = json.loads((directory / "open_clip_config.json").read_text())
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            if name := config["model_cfg"]["text_cfg"].get("hf_model_name"):
                Path(name).symlink_to(directory)
            loaded = open_clip.create_model(f"local-dir:{directory}", pretrained_text=False)
            os.chdir("/")
        loaded = loaded.eval()
        length = 20
        with torch.no_grad():
            text = loaded.encode_text(padded(ids, length, 1 if "xlm" in fixture else 0))
            image = loaded.encode_image(pixels)
        library = "open_clip"
    elif (directory / "modules.json").is_file():
        from sentence_transformers import SentenceTransformer

        loaded = SentenceTransformer(str(directory), device="cpu")
        text = loaded.encode(texts, convert_to_tensor=True)
        images = [Image.open(FIXTURES / "images" / f"{number}.png") for number in range(4)]
        image = loaded.encode(images, convert_to_tensor=True)
        library = "sentence-transformers"
        # Its texts and images are its own: entities are no letters in them, an odd row is cut from
        # the other side than in open_clip, and its resizing is torchvision's.
        print(f"  own tokens, each text: {each(text, reference['text.features'])}")
        print(f"  own pixels, each image: {each(image, reference['image.features'])}")
    else:
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        loaded, report = CLIPModel.from_pretrained(directory, output_loading_info=True)
        if any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            raise SystemExit(f"{directory}: {report}")
        found = AutoTokenizer.from_pretrained(directory)(texts, truncation=True, max_length=20)
        print("  token ids", "equal" if found["input_ids"] == ids else found["input_ids"])
        CLIPImageProcessor.from_pretrained(directory)
        with torch.no_grad():
            text = loaded.get_text_features(
                input_ids=padded(ids, 20, ids[0][-1])
            ).pooler_output
            image = loaded.get_image_features(pixel_values=pixels).pooler_output
        library = "transformers"
    print(
        f"{directory} by {library}: text {relative(text, reference['text.features']):.1e}, "
        f"image {relative(image, reference['image.features']):.1e}"
    )


def main() -> None:
    """Compare what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fixture")
    parser.add_argument("directories", nargs="+", type=Path)
    arguments = parser.parse_args()
    for directory in arguments.directories:
        check(arguments.fixture, directory.resolve())


if __name__ == "__main__":
    main()

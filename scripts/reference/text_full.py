#!/usr/bin/env python3
"""Make a text backbone of the catalogue at its full size, and its reference.

The architecture is the real checkpoint's; the weights are random and seeded,
and are saved by the libraries that publish the real ones, so that files, key
names and shapes are theirs. The vocabulary is made up (`w0`, `w1`, …) and as
long as the real one.

Writes into OUT/NAME:

  model/                  the directory, as the library saves it
  reference.safetensors   input_ids [4, longest], lengths [4], last_hidden_state
                          [4, longest, hidden], pooled [4, hidden]: rows of 1, 7,
                          128 and the largest number of tokens, padded
  texts.txt, texts.npy    texts and their embeddings by sentence-transformers

Prints the library versions as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import sentence_transformers
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)

SEED = 7
LENGTHS = (1, 7, 128)

BERT_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
DISTILBERT = {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}
T5_1_0 = {"feed_forward_proj": "relu", "d_kv": 64}
T5_1_1 = {"feed_forward_proj": "gated-gelu", "d_kv": 64}
SMALL = {"d_model": 512, "num_heads": 8, "num_layers": 6, "d_ff": 2048}
BASE = {"d_model": 768, "num_heads": 12, "num_layers": 12, "d_ff": 3072}
LARGE = {"d_model": 1024, "num_heads": 16, "num_layers": 24, "d_ff": 4096}
# T5 1.1 has fewer heads than `d_model / d_kv` in its small size.
SMALL_1_1 = {"d_model": 512, "num_heads": 6, "num_layers": 8, "d_ff": 1024}

# name: (family, vocabulary, largest number of tokens, configuration, tail)
MODELS: dict[str, tuple[str, int, int, dict[str, object], tuple[str, ...]]] = {
    "jina-embedding-t-en-v1": (
        "bert",
        30522,
        512,
        {
            "hidden_size": 312,
            "num_hidden_layers": 4,
            "num_attention_heads": 12,
            "intermediate_size": 1200,
        },
        (),
    ),
    "jina-embedding-s-en-v1": ("t5", 32100, 512, T5_1_0 | SMALL, ()),
    "jina-embedding-b-en-v1": ("t5", 32100, 512, T5_1_0 | BASE, ()),
    "jina-embedding-l-en-v1": ("t5", 32100, 512, T5_1_0 | LARGE, ()),
    "bert-base-en": ("bert", 28996, 512, BERT_BASE, ()),
    "bert-base-multi": ("bert", 119547, 512, BERT_BASE, ()),
    "distiluse-base-multi": ("distilbert", 119547, 128, DISTILBERT, ("dense",)),
    "sbert-base-en": ("distilbert", 30522, 510, DISTILBERT, ()),
    "all-minilm-l6-v2": (
        "bert",
        30522,
        256,
        {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
        ("normalize",),
    ),
    # Not in the catalogue: the other T5, and the encoder of multilingual models.
    "t5-v1_1-small": ("t5", 32100, 512, T5_1_1 | SMALL_1_1, ()),
    "xlm-roberta-base": (
        "xlm-roberta",
        250002,
        512,
        BERT_BASE | {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
        (),
    ),
}


def words(count: int, first: int = 0) -> list[str]:
    """Make up as many words."""
    return [f"w{index}" for index in range(first, first + count)]


def make_tokenizer(
    family: str, size: int
) -> tuple[transformers.PreTrainedTokenizerBase, int]:
    """Make a tokenizer of the family, and say how many words it knows."""
    if family == "t5":
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        known = size - len(pieces) - 100
        pieces += [(f"▁{word}", -float(index % 97) - 1) for index, word in enumerate(words(known))]
        pieces += [(f"<extra_id_{index}>", 0.0) for index in range(99, -1, -1)]
        return transformers.T5Tokenizer(vocab=pieces), known
    if family == "xlm-roberta":
        pieces = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        known = size - len(pieces) - 1
        pieces += [(f"▁{word}", -float(index % 97) - 1) for index, word in enumerate(words(known))]
        return transformers.XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)]), known
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = size - len(specials)
    vocabulary = {token: index for index, token in enumerate(specials + words(known))}
    if family == "bert":
        return transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False), known
    tokenizer = transformers.DistilBertTokenizer(vocab=vocabulary, do_lower_case=False)
    # The other tokenizer class also yields `token_type_ids`; DistilBERT has none.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer, known


def make_backbone(
    family: str, size: int, config: dict[str, object]
) -> transformers.PreTrainedModel:
    """Make the network with the library's own initialisation, biases and norms shaken."""
    if family == "bert":
        model = transformers.BertModel(transformers.BertConfig(vocab_size=size, **config))
    elif family == "distilbert":
        model = transformers.DistilBertModel(
            transformers.DistilBertConfig(vocab_size=size, **config)
        )
    elif family == "xlm-roberta":
        model = transformers.XLMRobertaModel(
            transformers.XLMRobertaConfig(
                vocab_size=size, max_position_embeddings=514, pad_token_id=1, **config
            )
        )
    else:
        # The table is a little longer than the vocabulary, as upstream's are.
        model = transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=size + 28, n_positions=512, **config)
        )
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def main() -> None:
    """Write one model and its reference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    family, size, longest, config, tail = MODELS[arguments.name]
    out: Path = arguments.out / arguments.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    tokenizer, known = make_tokenizer(family, size)
    backbone = make_backbone(family, size, config)
    hidden = backbone.config.hidden_size
    modules: list[torch.nn.Module] = [Pooling(hidden, "mean")]
    if "dense" in tail:
        modules.append(Dense(hidden, 512, activation_function=torch.nn.Tanh()))
    if "normalize" in tail:
        modules.append(Normalize())
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        backbone.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        transformer = Transformer(scratch, max_seq_length=longest)
        model = SentenceTransformer(modules=[transformer, *modules], device="cpu")
        model.save(str(out / "model"), create_model_card=False)
    del model, transformer

    generator = torch.Generator().manual_seed(SEED)
    lengths = [*LENGTHS, longest]
    pad = tokenizer.pad_token_id
    ids = torch.full((len(lengths), longest), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        # Any id but those of the special tokens, which come first.
        ids[row, :length] = torch.randint(5, size, (length,), generator=generator)
        mask[row, :length] = 1
    with torch.inference_mode():
        last = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (last * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    save_file(
        {
            "input_ids": ids.float(),
            "lengths": torch.tensor(lengths).float(),
            "last_hidden_state": last.contiguous(),
            "pooled": pooled.contiguous(),
        },
        out / "reference.safetensors",
    )
    del backbone, last

    model = SentenceTransformer(str(out / "model"), device="cpu", local_files_only=True)
    texts = []
    for length in (1, 3, 9, 30, 120, 700):
        numbers = torch.randint(0, known, (length,), generator=generator).tolist()
        texts.append(" ".join(f"w{number}" for number in numbers))
    (out / "texts.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    embeddings = model.encode(texts, batch_size=6, show_progress_bar=False)
    np.save(out / "texts.npy", embeddings.astype(np.float32))
    print(
        json.dumps(
            {
                "model": arguments.name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "sentence_transformers": sentence_transformers.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()

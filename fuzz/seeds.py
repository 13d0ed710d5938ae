"""Writes starting inputs for every target into `corpus/`, from the fixtures of `../fixtures/text`.

    python3 fuzz/seeds.py

Needs nothing beyond the standard library. How an input becomes a file is in the head of each
target.
"""

import io
import json
import pathlib
import zipfile

HERE = pathlib.Path(__file__).parent
TEXT = HERE.parent / "fixtures" / "text"
SPLIT = b"\xff"
LIMIT = 1 << 14


def put(target, name, content):
    directory = HERE / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)


def small(pattern):
    return [path for path in sorted(TEXT.glob(pattern)) if path.stat().st_size <= LIMIT]


for path in small("bad/*.safetensors") + small("distilbert-tiny/2_Dense/*.safetensors"):
    content = path.read_bytes()
    put("safetensors", f"whole-{path.name}", b"\0" + content)
    length = int.from_bytes(content[:8], "little")
    if length < len(content):
        put("safetensors", f"split-{path.name}", b"\1" + content[8 : 8 + length] + SPLIT + content[8 + length :])

for path in small("bad/*.bin"):
    content = path.read_bytes()
    put("pickle", f"whole-{path.name}", b"\0" + content)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile:
        continue
    for name in archive.namelist():
        if name.endswith("data.pkl"):
            pickle = archive.read(name)
            payload = bytes(range(256))
            for kind in (1, 0x81):
                put("pickle", f"inner-{kind}-{path.name}", bytes([kind]) + len(pickle).to_bytes(2, "little") + pickle + payload)

index = (TEXT / "bert-tiny-sharded" / "model.safetensors.index.json").read_bytes()
put("shard_index", "fixture", index)
for name, weight_map in {
    "valid": {"x": "a.safetensors", "y": "b.bin"},
    "missing": {"x": "a.safetensors", "z": "b.bin"},
    "absent": {"x": "c.safetensors"},
    "outside": {"x": "../a.safetensors"},
    "itself": {"x": "model.safetensors.index.json"},
    "directory": {"x": "."},
}.items():
    text = json.dumps({"metadata": {"total_size": 10}, "weight_map": weight_map}).encode()
    put("shard_index", name, text)
shards = [TEXT / "bad" / "f32.safetensors", TEXT / "bad" / "zip_f32.bin"]
text = json.dumps({"weight_map": {"weight": "a.safetensors", "bias": "b.bin"}}).encode()
put("shard_index", "shards", SPLIT.join([text] + [path.read_bytes().replace(SPLIT, b"\xfe") for path in shards]))

FILES = [
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
    "config.json",
]
for directory in sorted(path.parent for path in TEXT.glob("*/config.json")):
    contents = [(directory / name) for name in FILES]
    contents = [path.read_bytes() if path.is_file() else b"" for path in contents]
    put("modules_json", directory.name, SPLIT.join(contents))

CONFIGS = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
KINDS = ["tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"]
ARCHITECTURES = {"word-piece": 0, "bert": 0, "unigram-t5": 1, "t5": 1, "unigram-xlm": 2, "xlm": 2, "distilbert": 3}


def small_vocabulary(name, content):
    """A vocabulary of a few entries in place of thousands, in the file's own format."""
    if name == "tokenizer.json":
        tokenizer = json.loads(content)
        vocabulary = tokenizer["model"]["vocab"]
        if isinstance(vocabulary, dict):
            tokenizer["model"]["vocab"] = dict(list(vocabulary.items())[:120])
        else:
            tokenizer["model"]["vocab"] = vocabulary[:120]
        normalizer = tokenizer.get("normalizer") or {}
        for step in [normalizer, *normalizer.get("normalizers", [])]:
            step.pop("precompiled_charsmap", None) if step.get("type") != "Precompiled" else None
        return json.dumps(tokenizer).encode()
    if name == "vocab.txt":
        return b"\n".join(content.split(b"\n")[:120])
    # Fields of the protocol buffer: pieces (tag 1) first, the rest behind them.
    at, pieces, rest = 0, [], []
    while at < len(content):
        start, tag = at, content[at]
        at, length, shift = at + 1, 0, 0
        while True:
            byte = content[at]
            length |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        at += length
        (pieces if tag == 0x0A else rest).append(content[start:at])
    return b"".join(pieces[:120] + [field for field in rest if len(field) < LIMIT])


for directory in sorted(path.parent for path in (HERE.parent / "fixtures").glob("t*/*/config.json")):
    known = [kind for start, kind in ARCHITECTURES.items() if directory.name.startswith(start)]
    for kind, name in enumerate(KINDS):
        if not known or not (directory / name).is_file():
            continue
        vocabulary = small_vocabulary(name, (directory / name).read_bytes())
        contents = [directory / config for config in CONFIGS]
        contents = [path.read_bytes() if path.is_file() else b"" for path in contents]
        contents = [content if len(content) < LIMIT else b"" for content in contents]
        first = bytes([kind + 4 * known[0]])
        if len(vocabulary) <= 4 * LIMIT:
            put("tokenizer", f"{directory.name}-{name}", first + SPLIT.join([*contents, vocabulary]))

catalogue = (HERE.parent / "crates/fin-registry/src/catalogue.toml").read_text()
put("registry_toml", "catalogue", catalogue.encode())
for i, row in enumerate(catalogue.split("[[model]]")[1:]):
    put("registry_toml", f"row-{i}", f"[[model]]{row}".encode())

IMAGES = HERE.parent / "fixtures" / "images"
for path in sorted([*IMAGES.glob("files/*"), *IMAGES.glob("bad/*")]):
    if path.is_file() and path.stat().st_size <= 2 * LIMIT:
        put("image", path.name, path.read_bytes())
for path in sorted(IMAGES.glob("**/fin.json")):
    put("fin_json", path.parent.name, path.read_bytes())
for name, architecture in {
    "named": "resnet50",
    "resnet": {"resnet": {"block": "bottleneck", "layers": [1, 2], "planes": [8, 16], "stem_channels": 4}},
    "efficientnet": {
        "efficientnet": {
            "stem_channels": 8,
            "stages": [{"expand": 2, "kernel": 3, "stride": 2, "channels": 8, "layers": 1}],
            "head_channels": 8,
            "squeeze_excite": True,
            "padding": "same",
            "stochastic_depth": 0.2,
            "dropout": 0.1,
        }
    },
}.items():
    config = {
        "family": "cnn",
        "architecture": architecture,
        "preprocessing": {
            "resize": {"shorter_side": 16} if name != "resnet" else {"exact": [9, 12]},
            "interpolation": "bicubic" if name == "named" else "bilinear",
            "crop": [8, 8],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "pooling": "mean",
        "projection": 4,
        "normalize": True,
        "source": None,
        "licence": "MIT",
    }
    put("fin_json", name, json.dumps(config).encode())

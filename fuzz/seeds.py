"""Writes starting inputs for every target into `corpus/`, from the fixtures of `../fixtures/text`.

    python3 fuzz/seeds.py

Needs nothing beyond the standard library. How an input becomes a file is in the head of each
target.
"""

import base64
import io
import json
import pathlib
import struct
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

# A tetrahedron and a cloud of four points in every format, and what of the fixtures is small.
CORNERS = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
FACES = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]
rows = "".join(f"{x} {y} {z}\n" for x, y, z in CORNERS)
faces = "".join(f"3 {a} {b} {c}\n" for a, b, c in FACES)
floats = b"".join(struct.pack("<3f", *corner) for corner in CORNERS)
xyz = "property float x\nproperty float y\nproperty float z\n"
face = "element face 4\nproperty list uchar int vertex_indices\n"
for kind, order in {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}.items():
    header = f"ply\nformat {kind} 1.0\ncomment a\nelement vertex 4\n{xyz}{face}end_header\n".encode()
    body = (rows + faces).encode()
    if order:
        body = b"".join(struct.pack(order + "3f", *corner) for corner in CORNERS)
        body += b"".join(struct.pack(order + "B3i", 3, *corners) for corners in FACES)
    put("mesh_ply", kind, header + body)
normals = xyz + xyz.replace("float ", "float n")
strips = "element tristrips 1\nproperty list int int vertex_indices\n"
text = f"ply\nformat ascii 1.0\nelement vertex 4\n{xyz}{strips}end_header\n{rows}5 0 1 2 -1 3\n"
put("mesh_ply", "strips", text.encode())
text = f"ply\nformat ascii 1.0\nelement vertex 1\n{normals}end_header\n1 2 3 0 0 1\n"
put("mesh_ply", "cloud", text.encode())
vertices = "".join(f"v {row}\n" for row in rows.splitlines())
put("mesh_obj", "tetrahedron", (vertices + "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in FACES)).encode())
put("mesh_obj", "slashes", (vertices + "vn 0 0 1\nvt 0 0\ng a\nf 1/1/1 2//1 3/1 -1 \\\n 1\nf -1/-1/-1 -2 -3\n").encode())
put("mesh_obj", "cloud", (vertices + "vn 0 0 1\n" * 4).encode())
put("mesh_off", "tetrahedron", f"OFF\n4 4 6\n{rows}{faces}".encode())
put("mesh_off", "glued", f"COFF4 4 6 # a\n{rows}{faces}".encode())
put("mesh_off", "cloud", b"NOFF\n1 0 0\n1 2 3 0 0 1\n")
loops, triangles = "", b""
for corners in FACES:
    places = [CORNERS[i] for i in corners]
    loops += "facet normal 0 0 0\nouter loop\n" + "".join("vertex %s %s %s\n" % place for place in places)
    loops += "endloop\nendfacet\n"
    triangles += struct.pack("<12fH", 0, 0, 0, *[x for place in places for x in place], 0)
put("mesh_stl", "text", f"solid a\n{loops}endsolid a\n".encode())
put("mesh_stl", "binary", b"solid".ljust(80) + struct.pack("<I", 4) + triangles)
indices = bytes(i for corners in FACES for i in corners)
scene = {
    "asset": {"version": "2.0"},
    "scene": 0,
    "scenes": [{"nodes": [0]}],
    "nodes": [{"children": [1, 2], "scale": [1, 2, 3]}, {"mesh": 0, "rotation": [0, 0, 1, 0]}, {"mesh": 0}],
    "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": 4}]}],
    "accessors": [
        {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
        {"bufferView": 1, "componentType": 5121, "count": 12, "type": "SCALAR"},
    ],
    "bufferViews": [{"buffer": 0, "byteLength": 48}, {"buffer": 0, "byteOffset": 48, "byteLength": 12}],
    "buffers": [{"byteLength": 60}],
}
put("mesh_gltf", "binary", b"\1" + json.dumps(scene).encode() + SPLIT + floats + indices)
sparse = {"count": 1, "indices": {"bufferView": 1, "componentType": 5121}, "values": {"bufferView": 0}}
other = json.loads(json.dumps(scene))
other["accessors"][0]["sparse"] = sparse
other["meshes"][0]["primitives"][0].pop("indices")
for mode in (0, 5, 6):
    other["meshes"][0]["primitives"][0]["mode"] = mode
    put("mesh_gltf", f"sparse-{mode}", b"\1" + json.dumps(other).encode() + SPLIT + floats + indices)
scene["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(floats + indices).decode()
put("mesh_gltf", "embedded", b"\0" + json.dumps(scene).encode())
put("mesh_points", "xyz", b"\0" + rows.encode())
put("mesh_points", "columns", b"\0# a\nx,y,z,nx,ny,nz\n1,2,3,0,0,1\n")
put("mesh_points", "counted", b"\0001\n1 2 3 -900 10 20 30\n")
put("mesh_points", "colours", b"\0011 2 3 0 0 1\n")
for columns, descr in ((3, "<f4"), (6, ">f8")):
    values = bytes(24 * columns // 3 if descr == "<f4" else 16 * columns)
    dictionary = "{'descr': '%s', 'fortran_order': False, 'shape': (2, %d), }\n" % (descr, columns)
    put("mesh_points", f"npy-{columns}", b"\3" + dictionary.encode() + SPLIT + values)
fields = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 4\nHEIGHT 1\nPOINTS 4"
put("mesh_points", "pcd-ascii", f"\4{fields}\nDATA ascii\n{rows}".encode())
put("mesh_points", "pcd-binary", b"\4" + fields.encode() + b"\nDATA binary\n" + floats)
put("mesh_points", "pcd-runs", b"\5\x30\0" + fields.encode() + SPLIT + b"\x1f" + floats[:32] + b"\x0f" + floats[32:])
put("mesh_points", "pcd-copies", b"\5\x30\0" + fields.encode() + SPLIT + b"\x01\0\0\xe0\x25\x01")
MESHES = HERE.parent / "fixtures" / "meshes"
TARGETS = {"ply": "ply", "obj": "obj", "off": "off", "stl": "stl", "glb": "gltf", "gltf": "gltf"}
for path in sorted(MESHES.iterdir()):
    if path.stat().st_size <= LIMIT:
        content = path.read_bytes()
        kind = path.suffix[1:]
        if kind in TARGETS:
            put(f"mesh_{TARGETS[kind]}", path.name, (b"\0" if kind.startswith("gl") else b"") + content)
        elif kind in ("npy", "pcd", "xyz"):
            put("mesh_points", path.name, bytes([{"npy": 2, "pcd": 4, "xyz": 0}[kind]]) + content)

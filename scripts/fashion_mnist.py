#!/usr/bin/env python3
"""Fashion-MNIST (Xiao et al. 2017) from its idx files to a directory of PNG files a class.

    fashion_mnist.py SOURCE OUT [--train N] [--test N]

SOURCE is searched for the four `*-ubyte.gz` files. OUT gets train/CLASS/*.png and test/CLASS/*.png,
the first N of each class. Needs nothing beside Python.
"""

import argparse
import gzip
import struct
import zlib
from pathlib import Path

CLASSES = [
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
]


def idx(path):
    """Shape and bytes of an idx file of unsigned bytes."""
    content = gzip.decompress(path.read_bytes())
    zeros, kind, rank = struct.unpack(">HBB", content[:4])
    if zeros or kind != 8:
        raise SystemExit(f"{path}: not an idx file of unsigned bytes")
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return shape, content[4 + 4 * rank :]


def png(width, height, pixels):
    """A PNG file of grey pixels."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = b"".join(
        b"\0" + pixels[y * width : (y + 1) * width] for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def find(source, name):
    found = sorted(source.rglob(name))
    if not found:
        raise SystemExit(f"{source}: no {name} in it")
    return found[0]


def write(source, stem, out, most):
    (count, height, width), pixels = idx(find(source, f"{stem}-images-idx3-ubyte.gz"))
    _, labels = idx(find(source, f"{stem}-labels-idx1-ubyte.gz"))
    written = [0] * len(CLASSES)
    for i in range(count):
        label = labels[i]
        if written[label] == most:
            continue
        directory = out / CLASSES[label]
        directory.mkdir(parents=True, exist_ok=True)
        size = width * height
        image = png(width, height, pixels[i * size : (i + 1) * size])
        (directory / f"{written[label]:05}.png").write_bytes(image)
        written[label] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=100, help="of each class")
    parser.add_argument("--test", type=int, default=50, help="of each class")
    args = parser.parse_args()
    write(args.source, "train", args.out / "train", args.train)
    write(args.source, "t10k", args.out / "test", args.test)


if __name__ == "__main__":
    main()

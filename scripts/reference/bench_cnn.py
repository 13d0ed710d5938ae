#!/usr/bin/env python3
"""Time image networks in eager PyTorch and in ONNX Runtime.

Times the network from pixels to pooled features, without its classifier and
without decoding: torchvision's ResNet50 and ResNet152 at 224 × 224 and
EfficientNet-B4 at 380 × 380, and efficientnet_lite_pytorch's Lite0 at 224 × 224,
in batches of `--batch` images. Weights are random and seeded, and so are the
running statistics of batch normalisations, which are those of a batch of noise,
so that values stay in range and nothing can be left out as zero.

Each network and library runs in a process of its own, whose largest resident
memory is reported too; for ONNX Runtime another process exports the graph before,
and compares what it gives with PyTorch. After a warm-up every network is repeated
for about `--seconds`; the median counts. `others` is the share of the machine's
processor time that other processes took meanwhile: where it is not next to
nothing, the rows are no measure of the libraries. Prints a JSON list with one row
a network and library.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SEED = 20240311
SIZES = {
    "resnet50": 224,
    "resnet152": 224,
    "efficientnet_b4": 380,
    "efficientnet_lite0": 224,
}
MODES = ("torch", "torch-channels-last", "onnx")
# The last normalisations of residual branches: in ResNet's bottlenecks, in
# torchvision's blocks with and without an expansion, and in Lite's. Branches are
# small beside what they are added to, as in trained networks: else rounding errors
# grow from layer to layer.
BRANCH_ENDS = (".bn3", ".block.3.1", ".block.2.1", "._bn2")
# Share of the largest feature by which the exported graph may be off.
TOLERANCE = 1e-4


def build(name: str):  # noqa: ANN201
    """Make a network of random weights in inference mode, from pixels to features."""
    import torch
    from torch import nn

    class Lite(nn.Module):
        """EfficientNet-Lite up to its pooled features."""

        def __init__(self, number: str) -> None:
            """Make the network, padded for its size."""
            super().__init__()
            from efficientnet_lite_pytorch import EfficientNet

            self.network = EfficientNet.from_name(
                f"efficientnet-lite{number}", image_size=SIZES[name]
            )
            self.network._fc = nn.Identity()

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            """[batch, 3, height, width] gives [batch, features]."""
            return self.network.extract_features(pixels).mean(dim=(2, 3))

    torch.manual_seed(SEED)
    if name.startswith("efficientnet_lite"):
        model = Lite(name[-1])
    else:
        import torchvision

        model = getattr(torchvision.models, name)(weights=None)
        head = "fc" if hasattr(model, "fc") else "classifier"
        setattr(model, head, nn.Identity())
    model.eval()
    with torch.no_grad():
        for part, norm in model.named_modules():
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            norm.weight.uniform_(0.2, 0.4)
            if part.endswith(BRANCH_ENDS):
                norm.weight.mul_(0.25)
            norm.bias.normal_(std=0.03)
            norm.momentum = 1.0
            norm.train()
        # Of the size that is timed: those of another one let values explode.
        model(torch.from_numpy(pixels(name, 2)))
    return model.eval()


def pixels(name: str, batch: int):  # noqa: ANN201
    """Draw a batch of noise as an array."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    shape = (batch, 3, SIZES[name], SIZES[name])
    return generator.standard_normal(shape, dtype=np.float32)


def processor_seconds() -> tuple[float, float]:
    """Give the seconds that all processes and this one have computed, by Linux."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
    ticks = user + nice + system + irq + softirq + steal
    own = os.times()
    return ticks / os.sysconf("SC_CLK_TCK"), own.user + own.system


def measure(
    run: Callable[[], object], arguments: argparse.Namespace
) -> tuple[list[float], float]:
    """Repeat a call after a warm-up.

    Gives the milliseconds of each time, and the share of the machine's processor
    time that went to other processes.
    """
    for _ in range(2):
        run()
    times = []
    begin, before = time.perf_counter(), processor_seconds()
    while len(times) < 3 or time.perf_counter() < begin + arguments.seconds:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    wall = time.perf_counter() - begin
    everyone, own = (b - a for a, b in zip(before, processor_seconds(), strict=True))
    return times, max(0.0, everyone - own) / (wall * (os.cpu_count() or 1))


def row(
    arguments: argparse.Namespace,
    measured: tuple[list[float], float],
    libraries: dict[str, object],
) -> dict[str, object]:
    """Summarise the times of one network, with the memory of this process."""
    times, others = measured
    median = statistics.median(times)
    # Linux counts in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "mode": arguments.only[1],
        "model": arguments.only[0],
        "image_size": SIZES[arguments.only[0]],
        "batch": arguments.batch,
        "ms": round(median, 2),
        "min_ms": round(min(times), 2),
        "repetitions": len(times),
        "items_per_second": round(arguments.batch / median * 1e3, 2),
        "best_items_per_second": round(arguments.batch / min(times) * 1e3, 2),
        "peak_mib": round(peak),
        "threads": arguments.threads,
        "others": round(others, 3),
        **libraries,
    }


def time_torch(arguments: argparse.Namespace) -> dict[str, object]:
    """Time the network in eager mode."""
    import torch
    import torchvision

    torch.set_num_threads(arguments.threads)
    name = arguments.only[0]
    model, batch = build(name), torch.from_numpy(pixels(name, arguments.batch))
    if arguments.only[1] == "torch-channels-last":
        model = model.to(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        measured = measure(lambda: model(batch), arguments)
    libraries = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return row(arguments, measured, libraries)


def session_of(graph: Path, threads: int):  # noqa: ANN201
    """Open an exported graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(graph), options, providers=["CPUExecutionProvider"]
    )


def time_onnx(arguments: argparse.Namespace) -> dict[str, object]:
    """Time an exported graph, without PyTorch in the process."""
    import onnxruntime

    session = session_of(arguments.graph, arguments.threads)
    feed = {"pixels": pixels(arguments.only[0], arguments.batch)}
    measured = measure(lambda: session.run(None, feed), arguments)
    return row(arguments, measured, {"onnxruntime": onnxruntime.__version__})


def export(arguments: argparse.Namespace) -> dict[str, object]:
    """Write the graph and compare what it gives with PyTorch."""
    import warnings

    import torch

    torch.set_num_threads(arguments.threads)
    name = arguments.only[0]
    model, batch = build(name), torch.from_numpy(pixels(name, arguments.batch))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (batch[:2],),
            str(arguments.graph),
            input_names=["pixels"],
            output_names=["features"],
            dynamic_axes={"pixels": {0: "batch"}, "features": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
        expected = model(batch)
    session = session_of(arguments.graph, arguments.threads)
    found = torch.from_numpy(session.run(None, {"pixels": batch.numpy()})[0])
    error = float((found - expected).abs().max() / expected.abs().max())
    spread = float(expected.std(dim=0).mean() / expected.abs().mean())
    if not error <= TOLERANCE:
        raise SystemExit(f"the exported graph of {name} is off by {error}")
    return {"relative_difference": error, "relative_spread": spread}


def apart(arguments: argparse.Namespace, name: str, mode: str, graph: Path) -> dict:
    """Run one network and library in a process of its own."""
    command = [sys.executable, __file__, "--only", name, mode, "--graph", str(graph)]
    for option in ("threads", "batch", "seconds"):
        command += [f"--{option}", str(getattr(arguments, option))]
    # OpenMP reads its number before any library is loaded.
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name} in {mode} ended with {done.returncode}")
    return json.loads(done.stdout)


def main() -> None:
    """Time what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"of {', '.join(SIZES)} [all]"
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=["torch", "onnx"],
        help="[default: torch onnx]",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--seconds", type=float, default=10.0, help="time a network")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.models if name not in SIZES]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(SIZES)}")

    if arguments.only:
        task = {"onnx": time_onnx, "export": export}.get(arguments.only[1], time_torch)
        print(json.dumps(task(arguments)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models or SIZES:
            graph = Path(scratch) / f"{name}.onnx"
            for mode in arguments.modes:
                checked = {}
                if mode == "onnx":
                    checked = apart(arguments, name, "export", graph)
                rows.append(apart(arguments, name, mode, graph) | checked)
                print(json.dumps(rows[-1]), file=sys.stderr)
            graph.unlink(missing_ok=True)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Time CLIP's towers in eager PyTorch and in ONNX Runtime.

    bench_clip.py [--threads 2] [--seconds 10] [TOWER ...]

Times `transformers`' towers with their projections, from pixels or token ids to
features: the image towers of ViT-B/32 and ViT-L/14 at 224 × 224 with 8 images at
a time, and the text tower of ViT-B/32 with 32 texts of 16 and of 77 tokens. Weights are
random and seeded. Each tower runs after a warm-up for about `--seconds`; the
median counts. Prints a JSON list with one row a tower and library.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

SEED = 20240517
TOWERS = ("vit-b-32-image", "vit-l-14-image", "vit-b-32-text", "vit-b-32-text-77")


def build(name: str):  # noqa: ANN201
    """Make a tower and its input."""
    import torch
    import transformers

    torch.manual_seed(SEED)
    if "text" in name:
        config = transformers.CLIPTextConfig(projection_dim=512)
        model = transformers.CLIPTextModelWithProjection(config)
        batch = torch.randint(0, 49000, (32, 77 if name.endswith("77") else 16))
    else:
        large = {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
            "projection_dim": 768,
        }
        config = transformers.CLIPVisionConfig(**(large if "vit-l" in name else {}))
        model = transformers.CLIPVisionModelWithProjection(config)
        batch = torch.randn(8, 3, 224, 224)

    class Tower(torch.nn.Module):
        """The tower with one output."""

        def __init__(self) -> None:
            """Hold the tower."""
            super().__init__()
            self.model = model.eval()

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            """[batch, ...] gives [batch, projection_dim]."""
            return self.model(batch)[0]

    return Tower().eval(), batch


def measure(run, seconds: float) -> list[float]:  # noqa: ANN001
    """Give the milliseconds of each time."""
    for _ in range(2):
        run()
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def rows(name: str, arguments: argparse.Namespace):  # noqa: ANN201
    """Time one tower in both libraries."""
    import onnxruntime
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    model, batch = build(name)
    with torch.inference_mode():
        expected = model(batch)
        torch_times = measure(lambda: model(batch), arguments.seconds)
    yield "torch", torch_times, len(batch), {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    with tempfile.TemporaryDirectory() as scratch:
        graph = str(Path(scratch) / "tower.onnx")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (batch,), graph, opset_version=17, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: batch.numpy()}
        found = torch.from_numpy(session.run(None, feed)[0])
        error = float((found - expected).norm() / expected.norm())
        onnx_times = measure(lambda: session.run(None, feed), arguments.seconds)
    yield "onnx", onnx_times, len(batch), {
        "onnxruntime": onnxruntime.__version__,
        "relative_difference": error,
    }


def main() -> None:
    """Time what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("towers", nargs="*", help=f"of {', '.join(TOWERS)} [all]")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    found = []
    for name in arguments.towers or TOWERS:
        for mode, times, items, more in rows(name, arguments):
            median = statistics.median(times)
            found.append(
                {
                    "tower": name,
                    "mode": mode,
                    "batch": items,
                    "ms": round(median, 2),
                    "min_ms": round(min(times), 2),
                    "items_per_second": round(items / median * 1e3, 2),
                    "threads": arguments.threads,
                    **more,
                }
            )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

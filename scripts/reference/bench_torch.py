#!/usr/bin/env python3
"""Time the encoder of a model directory in eager PyTorch.

Times the transformer and mean pooling, without tokenizing, at batches of 32
sequences of 16, 64 and 256 tokens and of 16 sequences of 128. With `--onnx` the
same graph is exported and timed in ONNX Runtime. With `--step` one training step
at 32 sequences of 32 tokens is timed: forward in training mode, the cosine
similarity loss between the first 16 sequences and the last 16, backward,
clipping, AdamW.

After a warm-up each shape is repeated for about `--seconds`; the median counts.
The token ids come from a seed, or from `--ids` where that file exists; where it
does not, they are written there, so that another program can time the same
input. Prints a JSON list with one row a shape.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch
import transformers

SEED = 20240229
SHAPES = [(32, 16), (32, 64), (32, 256), (16, 128)]
STEP_SHAPE = (32, 32)

Batch = tuple[torch.Tensor, torch.Tensor]


class Pooled(torch.nn.Module):
    """The backbone followed by mean pooling over unmasked tokens."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        """Wrap a backbone."""
        super().__init__()
        self.backbone = backbone

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Embed a batch: [batch, tokens] gives [batch, hidden]."""
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(-1).to(output.last_hidden_state.dtype)
        total = (output.last_hidden_state * mask).sum(dim=1)
        return total / mask.sum(dim=1).clamp(min=1e-9)


def shape_name(shape: tuple[int, int]) -> str:
    """Write a shape as it is named in files."""
    return f"{shape[0]}x{shape[1]}"


def make_inputs(vocabulary: int, ragged: bool) -> dict[str, dict[str, list]]:
    """Draw token ids for every shape; ragged rows are half to wholly full."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = {}
    for batch, tokens in [*SHAPES, STEP_SHAPE]:
        low = min(1000, vocabulary // 2)
        ids = torch.randint(low, vocabulary, (batch, tokens), generator=generator)
        shortest = tokens // 2 if ragged else tokens
        lengths = torch.randint(shortest, tokens + 1, (batch,), generator=generator)
        lengths[0] = tokens
        inputs[shape_name((batch, tokens))] = {
            "input_ids": ids.tolist(),
            "lengths": lengths.tolist(),
        }
    return inputs


def load_inputs(path: Path | None, vocabulary: int, ragged: bool) -> dict[str, Batch]:
    """Read the token ids, or make them and keep them."""
    if path and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
    else:
        stored = make_inputs(vocabulary, ragged)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(stored) + "\n", encoding="utf-8")
    batches = {}
    for name, entry in stored.items():
        ids = torch.tensor(entry["input_ids"])
        lengths = torch.tensor(entry["lengths"]).unsqueeze(1)
        mask = (torch.arange(ids.shape[1]).unsqueeze(0) < lengths).long()
        batches[name] = (ids, mask)
    return batches


def measure(run: Callable[[], object], seconds: float) -> list[float]:
    """Repeat a call and give the milliseconds of each time after a warm-up."""
    for _ in range(3):
        run()
    times = []
    deadline = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def row(
    mode: str,
    shape: tuple[int, int],
    times: list[float],
    threads: int,
    libraries: dict[str, str],
) -> dict[str, object]:
    """Summarise the times of one shape."""
    median = statistics.median(times)
    return {
        "mode": mode,
        "shape": shape_name(shape),
        "ms": round(median, 3),
        "min_ms": round(min(times), 3),
        "repetitions": len(times),
        "items_per_second": round(shape[0] / median * 1e3, 1),
        "threads": threads,
        **libraries,
    }


def time_torch(
    model: Pooled,
    inputs: dict[str, Batch],
    shapes: list[tuple[int, int]],
    arguments: argparse.Namespace,
) -> list[dict[str, object]]:
    """Time the forward pass in eager mode."""
    model.eval()
    attention = model.backbone.config._attn_implementation
    rows = []
    with torch.inference_mode():
        for shape in shapes:
            batch = inputs[shape_name(shape)]
            times = measure(lambda batch=batch: model(*batch), arguments.seconds)
            libraries = {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "attention": attention,
            }
            rows.append(row("torch", shape, times, torch.get_num_threads(), libraries))
    return rows


def time_onnx(
    model: Pooled,
    inputs: dict[str, Batch],
    shapes: list[tuple[int, int]],
    arguments: argparse.Namespace,
) -> list[dict[str, object]]:
    """Export the same graph and time it in ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise SystemExit("--onnx needs the package onnxruntime") from error

    model.eval()
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    # A padded row keeps the mask in the traced graph.
    ids, mask = (tensor.clone() for tensor in inputs[shape_name(SHAPES[0])])
    mask[1, tokens_kept(mask) :] = 0
    with tempfile.TemporaryDirectory() as scratch:
        path = str(Path(scratch) / "model.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (ids, mask),
                path,
                input_names=names,
                output_names=["embedding"],
                dynamic_axes=axes | {"embedding": {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    rows = []
    for shape in shapes:
        batch = inputs[shape_name(shape)]
        feed = {name: part.numpy() for name, part in zip(names, batch, strict=True)}
        with torch.inference_mode():
            expected = model(*batch)
        found = torch.from_numpy(session.run(None, feed)[0])
        error = float((found - expected).abs().max())
        if error > 1e-3:
            raise SystemExit(f"the exported graph is off by {error} at {shape}")
        times = measure(lambda feed=feed: session.run(None, feed), arguments.seconds)
        libraries = {
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
            "max_abs_difference": error,
        }
        threads = options.intra_op_num_threads
        rows.append(row("onnx", shape, times, threads, libraries))
    return rows


def tokens_kept(mask: torch.Tensor) -> int:
    """Give half of the longest sequence, and at least one token."""
    return max(1, mask.shape[1] // 2)


def time_step(
    model: Pooled, inputs: dict[str, Batch], arguments: argparse.Namespace
) -> list[dict[str, object]]:
    """Time one training step."""
    model.train()
    batch = inputs[shape_name(STEP_SHAPE)]
    half = STEP_SHAPE[0] // 2
    labels = torch.linspace(0.0, 1.0, half)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        embeddings = model(*batch)
        cosine = torch.cosine_similarity(embeddings[:half], embeddings[half:])
        loss = torch.nn.functional.mse_loss(cosine, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    times = measure(step, arguments.seconds)
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    return [row("step", STEP_SHAPE, times, torch.get_num_threads(), libraries)]


def main() -> None:
    """Time what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model directory")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--seconds", type=float, default=5.0, help="time a shape")
    parser.add_argument("--ids", type=Path, help="JSON file of token ids, read or made")
    parser.add_argument(
        "--ragged", action="store_true", help="make rows of different lengths"
    )
    parser.add_argument("--onnx", action="store_true", help="time ONNX Runtime instead")
    parser.add_argument("--step", action="store_true", help="time a training step")
    arguments = parser.parse_args()

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    backbone = transformers.AutoModel.from_pretrained(
        arguments.model, local_files_only=True, dtype=torch.float32
    )
    inputs = load_inputs(arguments.ids, backbone.config.vocab_size, arguments.ragged)
    positions = backbone.config.max_position_embeddings
    shapes = [shape for shape in SHAPES if shape[1] <= positions]
    if len(shapes) < len(SHAPES):
        print(f"only shapes of at most {positions} tokens", file=sys.stderr)
    model = Pooled(backbone)
    if arguments.step:
        rows = time_step(model, inputs, arguments)
    elif arguments.onnx:
        rows = time_onnx(model, inputs, shapes, arguments)
    else:
        rows = time_torch(model, inputs, shapes, arguments)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

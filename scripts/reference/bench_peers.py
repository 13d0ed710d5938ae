#!/usr/bin/env python3
"""Time a model of fin's benches in another library, with fin's weights and inputs.

    bench_peers.py DIR PEER [--threads 2] [--seconds 10]

DIR is what fin's benches `models` and `train` write with FIN_BENCH_DUMP: bench.json,
which says what the model is in its reference library and what is timed;
model.safetensors under that library's names; and a file of tensors for every shape,
with the inputs and what fin made of them. `cargo xtask bench --peers` calls this.

PEER is torch (eager mode), torch-compile, onnx (ONNX Runtime), openvino; or export,
which times nothing and writes the graphs for the last two. Every peer has a process of
its own, and those that run graphs do not load PyTorch.

What a peer gives is compared with what fin gave before anything is timed: where they
differ by more than 1e-4 of the norm, the script ends with 1. Of training, the losses
of two steps without dropout and stochastic depth are compared.

Prints a JSON list with one row a shape: milliseconds a call (the median), items a
second, the largest resident memory since the model was loaded, and the relative
difference; or an object with the reason as `skipped` where a peer is not there.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

TOLERANCE = 1e-4
PEERS = ("torch", "torch-compile", "onnx", "openvino", "export")
# Keys of upstream's modules that share their tensor with another or are computed, and the rest of
# PointNet++'s classifier.
NOT_SAVED = r"encoder\.embed_tokens\.weight|.*(position_ids|token_type_ids|attn_mask)|(fc2|bn2|fc3)\..*"


class Skipped(Exception):
    """Why a peer cannot be timed."""


def network(reference: dict, dropout: bool = False):  # noqa: ANN201
    """Make the reference library's network, without weights of its own."""
    library, name = reference["library"], reference["class"]
    if library == "torchvision":
        import torchvision

        model = getattr(torchvision.models, name)(weights=None)
        from torch import nn

        setattr(model, "fc" if hasattr(model, "fc") else "classifier", nn.Identity())
        return model
    if library == "timm":
        import timm

        rate = reference.get("drop_path_rate", 0.0) if dropout else 0.0
        return timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=rate)
    if library == "pointnet":
        import pointnet

        return pointnet.PointNet2(getattr(pointnet, name), 40, normals=False)
    if library == "open_clip":
        return open_clip_model(name, reference["config"])
    import transformers

    transformers.logging.set_verbosity_error()
    config = dict(reference["config"])
    if not dropout:
        for field in config:
            if "dropout" in field:
                config[field] = 0.0
    kind = getattr(transformers, name)
    # BERT's pooler is another head.
    options = {"add_pooling_layer": False} if name == "BertModel" else {}
    return kind(kind.config_class(**config), **options)


def open_clip_model(name: str, config: dict):  # noqa: ANN201
    """Make open_clip's model around a configuration of transformers that is not downloaded."""
    import tempfile

    import open_clip
    import transformers

    values = json.loads(json.dumps(open_clip.get_model_config(name)))
    with tempfile.TemporaryDirectory() as folder:
        transformers.XLMRobertaConfig(**config).save_pretrained(folder)
        values["text_cfg"] |= {"hf_model_name": folder, "hf_model_pretrained": False}
        return open_clip.CustomTextCLIP(**values)


def load(about: dict, folder: Path, dropout: bool = False):  # noqa: ANN201
    """Make the network with fin's weights, as one module from inputs to vectors."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    reference = about["reference"]
    model = network(reference, dropout)
    missing, unexpected = model.load_state_dict(
        load_file(folder / "model.safetensors"), strict=False
    )
    missing = [key for key in missing if not re.fullmatch(NOT_SAVED, key)]
    if missing or unexpected:
        raise SystemExit(
            f"bench_peers.py: {about['model']}: weights do not fit {reference['class']}: "
            f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    head = None
    if (folder / "head.safetensors").exists():
        found = load_file(folder / "head.safetensors")
        head = nn.Linear(*found["weight"].shape[::-1])
        head.load_state_dict(found)

    class Embedder(nn.Module):
        """From ids, pixels or points to vectors."""

        def __init__(self) -> None:
            """Hold the network."""
            super().__init__()
            self.model, self.head = model, head

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """[batch, ...] gives [batch, output_dim]."""
            x = self.features(inputs)
            if self.head is not None:
                x = torch.tanh(self.head(x))
            return nn.functional.normalize(x, dim=-1) if reference["normalize"] else x

        def features(self, inputs: torch.Tensor) -> torch.Tensor:
            """Give what the network makes before a head."""
            if reference["library"] == "open_clip":
                is_text = inputs.dtype == torch.int64
                return self.model.encode_text(inputs) if is_text else self.model.encode_image(inputs)
            if reference["library"] == "pointnet":
                return self.model(inputs)["stage"]
            if reference["library"] != "transformers":
                return self.model(inputs)
            if reference["class"] == "CLIPModel":
                if inputs.dtype == torch.int64:
                    return self.model.get_text_features(input_ids=inputs).pooler_output
                return self.model.get_image_features(pixel_values=inputs).pooler_output
            mask = (inputs != 0).long()
            hidden = self.model(input_ids=inputs, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

    return Embedder().eval()


def tensors(folder: Path, shape: str) -> dict:
    """Read a shape's arrays."""
    from safetensors.numpy import load_file

    return load_file(folder / f"{shape}.safetensors")


def inputs_of(found: dict):  # noqa: ANN201
    """Give the array that goes into the network."""
    import numpy as np

    if "input_ids" in found:
        return found["input_ids"].astype(np.int64)
    return found["pixels"] if "pixels" in found else found["points"]


def check(about: dict, peer: str, shape: str, found, expected) -> float:  # noqa: ANN001
    """Give the relative difference, or end where it is too large."""
    import numpy as np

    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    error = float("inf")
    if found.shape == expected.shape:
        error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error <= TOLERANCE:
        raise SystemExit(
            f"bench_peers.py: {about['model']}, {shape}: {peer} gives another output than fin "
            f"(shapes {found.shape} and {expected.shape}, relative difference {error:.1e}, more "
            f"than {TOLERANCE:.0e}); times of different computations are not compared"
        )
    return error


def forget_peak() -> None:
    """Give freed memory back and begin a new high-water mark, where the system can."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass


def peak_mib() -> int | None:
    """Give the high-water mark of resident memory."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) >> 10 if found else None


def measure(run: Callable[[], object], seconds: float) -> list[float]:
    """Give the milliseconds of each call after one that does not count."""
    run()
    times = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() < begin + seconds:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def row(about: dict, shape: dict, times: list[float], error: float, versions: dict) -> dict:
    """Summarise the times of a shape."""
    median = statistics.median(times)
    return {
        "model": about["model"],
        "shape": shape["shape"],
        "ms": median,
        "min_ms": min(times),
        "repetitions": len(times),
        "items_per_second": shape["items"] / median * 1e3,
        "peak_mib": peak_mib(),
        "relative_difference": error,
        "versions": versions,
    }


def compiled(module):  # noqa: ANN001, ANN201
    """Give a module that PyTorch compiles at its first call."""
    import torch

    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise Skipped("no C++ compiler")
    torch._dynamo.reset()
    return torch.compile(module)


def time_torch(about: dict, arguments: argparse.Namespace) -> list[dict]:
    """Time forward passes in PyTorch."""
    import torch

    torch.set_num_threads(arguments.threads)
    if about["reference"]["library"] == "pointnet" and arguments.peer == "torch-compile":
        raise Skipped("the loop of farthest point sampling would be unrolled")
    model = load(about, arguments.folder)
    versions = {"torch": torch.__version__}
    forget_peak()
    rows = []
    for shape in about["shapes"]:
        found = tensors(arguments.folder, shape["shape"])
        batch = torch.from_numpy(inputs_of(found))
        run = model if arguments.peer == "torch" else compiled(model)
        with torch.inference_mode():
            try:
                result = run(batch)
            except Exception as error:  # noqa: BLE001
                if arguments.peer == "torch":
                    raise
                raise Skipped(f"torch.compile: {first_line(error)}") from error
            difference = check(about, arguments.peer, shape["shape"], result, found["expected"])
            times = measure(lambda run=run, batch=batch: run(batch), arguments.seconds)
        rows.append(row(about, shape, times, difference, versions))
    return rows


def first_line(error: Exception) -> str:
    """Give what an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def time_training(about: dict, arguments: argparse.Namespace) -> list[dict]:
    """Time steps of training in PyTorch."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    shape = about["shapes"][0]
    found = tensors(arguments.folder, shape["shape"])
    batch = torch.from_numpy(inputs_of(found))

    def steps(dropout: bool) -> Callable[[], float]:
        model = load(about, arguments.folder, dropout).train()
        decayed, others = [], []
        for name, parameter in model.named_parameters():
            is_other = parameter.ndim == 1 or "norm" in name.lower()
            (others if is_other else decayed).append(parameter)
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=2e-5)
        run = model if arguments.peer == "torch" else compiled(model)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            anchors, positives = F.normalize(run(batch), dim=-1).chunk(2)
            logits = 20 * anchors @ positives.T
            loss = F.cross_entropy(logits, torch.arange(len(logits)))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.item()

        return step

    try:
        step = steps(dropout=False)
        losses = [step() for _ in range(len(found["losses"]))]
        difference = check(about, arguments.peer, shape["shape"], losses, found["losses"])
        step = None
        step = steps(dropout=True)
        forget_peak()
        times = measure(step, arguments.seconds)
    except RuntimeError as error:
        if arguments.peer == "torch":
            raise
        raise Skipped(f"torch.compile: {first_line(error)}") from error
    return [row(about, shape, times, difference, {"torch": torch.__version__})]


def graph_of(folder: Path, kind: str) -> Path:
    """Name the graph that embeds inputs of this kind."""
    return folder / f"{kind}.onnx"


def export(about: dict, arguments: argparse.Namespace) -> list[dict]:
    """Write the graphs: one for each kind of input."""
    import torch

    refuse_graph(about)
    torch.set_num_threads(arguments.threads)
    model = load(about, arguments.folder)
    written = set()
    for shape in about["shapes"]:
        kind = shape["kind"]
        if kind in written:
            continue
        written.add(kind)
        batch = torch.from_numpy(inputs_of(tensors(arguments.folder, shape["shape"])))
        axes = {0: "batch", 1: "tokens"} if kind == "input_ids" else {0: "batch"}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (batch[:2],),
                str(graph_of(arguments.folder, kind)),
                input_names=[kind],
                output_names=["embeddings"],
                dynamic_axes={kind: axes, "embeddings": {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
    return []


def refuse_graph(about: dict) -> None:
    """Say where there is no graph of a model."""
    if about["reference"]["library"] == "pointnet":
        raise Skipped("the loop of farthest point sampling would be unrolled")


def time_onnx(about: dict, arguments: argparse.Namespace) -> list[dict]:
    """Time the graphs in ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Skipped("no package onnxruntime") from error

    def open_graph(kind: str) -> Callable:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(graph_of(arguments.folder, kind)), options, providers=["CPUExecutionProvider"]
        )
        return lambda batch: session.run(None, {kind: batch})[0]

    versions = {"onnxruntime": onnxruntime.__version__}
    return time_graphs(about, arguments, open_graph, versions)


def time_openvino(about: dict, arguments: argparse.Namespace) -> list[dict]:
    """Time the graphs in OpenVINO."""
    try:
        import openvino
    except ImportError as error:
        raise Skipped("no package openvino") from error

    core = openvino.Core()
    # Its choice on some processors is half precision or bfloat16.
    config = {"INFERENCE_NUM_THREADS": arguments.threads, "INFERENCE_PRECISION_HINT": "f32"}

    def open_graph(kind: str) -> Callable:
        graph = core.read_model(str(graph_of(arguments.folder, kind)))
        model = core.compile_model(graph, "CPU", config)
        return lambda batch: model([batch])[0]

    versions = {"openvino": openvino.__version__.split("-")[0]}
    return time_graphs(about, arguments, open_graph, versions)


def time_graphs(
    about: dict, arguments: argparse.Namespace, open_graph: Callable, versions: dict
) -> list[dict]:
    """Time what `open_graph` makes of the graph of each kind."""
    refuse_graph(about)
    kinds = dict.fromkeys(shape["kind"] for shape in about["shapes"])
    graphs = {kind: open_graph(kind) for kind in kinds}
    forget_peak()
    rows = []
    for shape in about["shapes"]:
        found = tensors(arguments.folder, shape["shape"])
        run, batch = graphs[shape["kind"]], inputs_of(found)
        difference = check(about, arguments.peer, shape["shape"], run(batch), found["expected"])
        times = measure(lambda run=run, batch=batch: run(batch), arguments.seconds)
        rows.append(row(about, shape, times, difference, versions))
    return rows


def main() -> None:
    """Time what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="what fin's bench wrote")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=10.0, help="time a shape [10]")
    arguments = parser.parse_args()
    # OpenMP reads its number before any library is loaded.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    about = json.loads((arguments.folder / "bench.json").read_text(encoding="utf-8"))
    tasks = {
        "torch": time_torch,
        "torch-compile": time_torch,
        "onnx": time_onnx,
        "openvino": time_openvino,
        "export": export,
    }
    task = tasks[arguments.peer]
    try:
        if about["training"]:
            if task is not time_torch:
                raise Skipped("does not train")
            task = time_training
        print(json.dumps(task(about, arguments)))
    except ImportError as error:
        print(json.dumps({"skipped": f"no package {error.name}"}))
    except Skipped as reason:
        print(json.dumps({"skipped": str(reason)}))


if __name__ == "__main__":
    main()

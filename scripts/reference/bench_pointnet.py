#!/usr/bin/env python3
"""Time PointNet++ and its neighbourhood queries in eager PyTorch.

16 clouds of 2,048 points of ellipsoids and boxes in the unit sphere, the networks of
pointnet.py with random weights, up to the classifier's first stage. Each line is the
median of `--repeats` runs after one that does not count. `--clouds FILE` writes the clouds
for `benches/benches/pointnet.rs`, which reads them where FIN_BENCH_CLOUDS says.
`others` is the share of the machine's processor time that other processes took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from pointnet import MSG, SSG, PointNet2, ball, farthest, randomize, shapes, take
from safetensors.torch import save_file


def busy() -> float:
    """Seconds of processor time of the whole machine."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    ticks = sum(int(f) for f in fields) - int(fields[3]) - int(fields[4])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clouds", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clouds = shapes(16, 2048, 1)[..., :3].contiguous()
    if arguments.clouds:
        save_file({"clouds": clouds}, arguments.clouds)
    first = take(clouds, farthest(clouds, 512))
    second = take(first, farthest(first, 128))
    work = {
        "farthest-2048-512": lambda: farthest(clouds, 512),
        "farthest-512-128": lambda: farthest(first, 128),
        "ball-0.2-32": lambda: ball(0.2, 32, clouds, first),
        "ball-0.4-64": lambda: ball(0.4, 64, first, second),
    }
    for name, config in (("pointnet2_ssg", SSG), ("pointnet2_msg", MSG)):
        model = PointNet2(config, 40, normals=False).eval()
        randomize(model, 0)
        # The rest of the classifier takes next to nothing.
        work[name] = lambda model=model: model(clouds)["stage"]
    rows = []
    with torch.no_grad():
        for name, run in work.items():
            run()
            times = []
            start, machine, own = time.perf_counter(), busy(), time.process_time()
            for _ in range(arguments.repeats):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            elapsed = time.perf_counter() - start
            others = busy() - machine - (time.process_time() - own)
            median = statistics.median(times)
            rows.append(
                {
                    "name": name,
                    "milliseconds": round(1000 * median, 2),
                    "clouds_per_second": round(16 / median, 2),
                    "others": round(max(0.0, others) / elapsed / os.cpu_count(), 2),
                }
            )
    print(json.dumps({"torch": torch.__version__, "threads": arguments.threads, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()

"""Reads the event files of `fin fit --tensorboard DIR` with TensorBoard's own reader and compares them
with the log of the same run, `--log run.jsonl`.

    python scripts/reference/tensorboard_events.py DIR run.jsonl

Every scalar of the log has to be there once, at its step, with its value in 32 bits, also where the run
was cut off and resumed. Prints the tags with the number of their steps. Needs `tensorboard`.
"""

import json
import math
import struct
import sys

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def single(value):
    """The nearest number of 32 bits."""
    return struct.unpack("f", struct.pack("f", value))[0]


def main():
    directory, log = sys.argv[1:]
    expected = {}
    with open(log, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            values = line.get("metrics") or {
                name: line[name] for name in ("loss", "learning_rate", "grad_norm")
            }
            for name, value in values.items():
                value = math.nan if value is None else single(value)
                expected.setdefault(name, []).append((line["step"], value))

    events = EventAccumulator(directory, size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    assert sorted(tags) == sorted(expected), (sorted(tags), sorted(expected))
    for tag in tags:
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        same = [
            step == other and (value == wanted or math.isnan(value) and math.isnan(wanted))
            for (step, value), (other, wanted) in zip(found, expected[tag])
        ]
        assert len(found) == len(expected[tag]) and all(same), (tag, found, expected[tag])
        print(f"{tag}: {len(found)} steps, {found[0][0]} to {found[-1][0]}")
    print(f"tensorboard {tensorboard.__version__}: equal to {log}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Training steps, 32x32x3, float32: this program against PyTorch on the same machine, interleaved.

    pip install torch torchvision
    python3 tests/bench/compare_pytorch.py build/step_bench [--model NAME] [--rounds 5] [--seconds 6] [--compile]

NAME is resnet20, the default, or one of torchvision's networks, as mobilenet_v2.

PyTorch's best of {contiguous, channels_last} x {batch 64, batch 128} counts (with --compile also torch.compile), with
one thread per core; this program runs 2 workers with 64 images each. Prints the ratio of each round and its median.
"""
import argparse
import os
from pathlib import Path
import re
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


def resnet(blocks_per_stage):
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    channels = 16
    for stage, filters in enumerate((16, 32, 64)):
        for index in range(blocks_per_stage):
            layers.append(Block(channels, filters, 2 if stage > 0 and index == 0 else 1))
            channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def network_of(name):
    if name == "resnet20":
        return resnet(3)
    import torchvision

    return torchvision.models.get_model(name, num_classes=10)


def write_network(name, path):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
    import from_pytorch

    network, _, _ = from_pytorch.convert(network_of(name), (3, 32, 32))
    path.write_text(from_pytorch.file_text(network))


class Torch:
    def __init__(self, name, batch, channels_last, compiled):
        self.name = f"batch {batch}{' channels_last' if channels_last else ''}{' compiled' if compiled else ''}"
        self.batch = batch
        model = network_of(name)
        self.images = torch.randn(batch, 3, 32, 32)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
            self.images = self.images.to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (batch,))
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        self.model = torch.compile(model) if compiled else model
        for _ in range(3):
            self.step()

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def rate(self, seconds):
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            self.step()
            steps += 1
        return steps * self.batch / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step_bench")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    variants = [Torch(options.model, batch, layout, compiled)
                for compiled in ([False, True] if options.compile else [False])
                for batch in (64, 128) for layout in (False, True)]
    folder = tempfile.TemporaryDirectory()
    network = Path(folder.name) / f"{options.model}.json"
    write_network(options.model, network)
    ratios = []
    for number in range(options.rounds):
        rates = {variant.name: variant.rate(options.seconds) for variant in variants}
        best = max(rates, key=rates.get)
        output = subprocess.run([options.step_bench, "throughput", network, "2", "64", "step",
                                 str(options.seconds)],
                                check=True, capture_output=True, text=True).stdout
        ours = float(re.search(r"([\d.]+) images/s", output).group(1))
        ratios.append(ours / rates[best])
        print(f"round {number + 1}: PyTorch {torch.__version__} {rates[best]:.0f} images/s ({best}); "
              f"stpt_starpu {ours:.0f} images/s; ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

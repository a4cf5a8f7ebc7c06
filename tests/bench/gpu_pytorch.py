#!/usr/bin/env python3
"""PyTorch's training steps on a GPU, for gpu_bench.py, with networks as stpt_starpu has them.

    gpu_pytorch.py check                         PyTorch's version; status 1 where it has no GPU
    gpu_pytorch.py MODEL BATCH TYPE VARIANT      first steps after a line on stdin, then a round of S
                                                 seconds for each line "S"

MODEL is a resnet20 or resnet50, TYPE float32 (with TF32), bfloat16 or float16, VARIANT eager or a
mode of torch.compile. Answers in lines of JSON.
"""

import argparse
import contextlib
import json
import sys
import time

import torch
from torch import nn
import torch.nn.functional as F


def convolution(inputs, outputs, kernel, stride):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def shortcut(inputs, outputs, stride):
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, filters, 3, stride), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = convolution(filters, filters, 3, 1), nn.BatchNorm2d(filters)
        self.shortcut = shortcut(inputs, filters, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """With the stride in the 3x3 convolution (v1.5)."""

    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, filters, 1, 1), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = convolution(filters, filters, 3, stride), nn.BatchNorm2d(filters)
        self.conv3, self.bn3 = convolution(filters, 4 * filters, 1, 1), nn.BatchNorm2d(4 * filters)
        self.shortcut = shortcut(inputs, 4 * filters, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x), inplace=True)


def stages(inputs, block, expansion, filters, counts):
    layers = []
    for stage, (width, count) in enumerate(zip(filters, counts)):
        for index in range(count):
            layers.append(block(inputs, width, 2 if stage > 0 and index == 0 else 1))
            inputs = expansion * width
    return layers


def resnet20():
    return nn.Sequential(
        convolution(3, 16, 3, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        *stages(16, Basic, 1, (16, 32, 64), (3, 3, 3)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet50():
    return nn.Sequential(
        convolution(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        *stages(64, Bottleneck, 4, (64, 128, 256, 512), (3, 4, 6, 3)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


# The constructor, the images' side, the number of classes.
MODELS = {"resnet20": (resnet20, 32, 10), "resnet50": (resnet50, 224, 1000)}


class Training:
    def __init__(self, options):
        make, side, classes = MODELS[options.model]
        side = options.side or side
        self.device = options.device
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(1)
        self.model = make().to(self.device, memory_format=torch.channels_last)
        self.images = torch.randn(options.batch, 3, side, side, device=self.device).to(
            memory_format=torch.channels_last)
        self.labels = torch.randint(0, classes, (options.batch,), device=self.device)
        try:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, fused=True)
        except (RuntimeError, TypeError):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
        half = options.type != "float32"
        self.autocast = lambda: (torch.autocast(self.device, getattr(torch, options.type)) if half
                                 else contextlib.nullcontext())
        self.scaler = torch.amp.GradScaler(self.device, enabled=options.type == "float16")
        self.loss_of = lambda images, labels: F.cross_entropy(self.model(images), labels)
        if options.variant != "eager":
            mode = None if options.variant == "default" else options.variant
            self.loss_of = torch.compile(self.loss_of, mode=mode)

    def steps(self, count):
        """Returns the loss of the last one."""
        for _ in range(count):
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                loss = self.loss_of(self.images, self.labels)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.item()  # waits for the GPU


def serve(options):
    training = Training(options)
    sys.stdin.readline()
    training.steps(5)  # PyTorch tries out which convolutions are fast
    print(json.dumps({"ready": 1, "parameters": sum(p.numel() for p in training.model.parameters())}), flush=True)
    per_step = None
    for line in sys.stdin:
        count = 1 if per_step is None else max(1, int(float(line) / per_step))
        start = time.perf_counter()
        loss = training.steps(count)
        seconds = time.perf_counter() - start
        per_step = seconds / count
        print(json.dumps({"images_per_second": options.batch / per_step, "steps": count,
                          "seconds": seconds, "loss": loss}), flush=True)


def check(device):
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("this PyTorch sees no GPU")
    print(json.dumps({"version": torch.__version__, "cudnn": torch.backends.cudnn.version()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["check", *MODELS])
    parser.add_argument("batch", type=int, nargs="?")
    parser.add_argument("type", choices=["float32", "bfloat16", "float16"], nargs="?")
    parser.add_argument("variant", nargs="?")
    parser.add_argument("--side", type=int, help="of the images")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    options = parser.parse_args()
    if options.model == "check":
        check(options.device)
    elif options.variant is None:
        parser.error("BATCH, TYPE and VARIANT are missing")
    else:
        serve(options)


if __name__ == "__main__":
    main()

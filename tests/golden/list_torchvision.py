#!/usr/bin/env python3
"""Writes torchvision_state_dicts.txt (pip install torch torchvision).

For each model a line "<name>:", then for each entry of its state_dict() a line with its name and
dimensions; a scalar has none.
"""

import pathlib

import torch
import torchvision

MODELS = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
MODELS += ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"]
MODELS += ["densenet121", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"]
MODELS += [f"vgg{depth}{suffix}" for suffix in ("", "_bn") for depth in (11, 13, 16, 19)]


def main():
    path = pathlib.Path(__file__).resolve().with_name("torchvision_state_dicts.txt")
    with open(path, "w") as file, torch.device("meta"):
        for name in MODELS:
            print(f"{name}:", file=file)
            for entry, value in torchvision.models.get_model(name).state_dict().items():
                print(entry, *value.shape, file=file)


if __name__ == "__main__":
    main()

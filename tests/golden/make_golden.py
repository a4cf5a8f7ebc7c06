#!/usr/bin/env python3
"""Writes the reference tensors of this folder with PyTorch (pip install torch torchvision numpy).

Inputs are rounded to float32 first; everything that is computed from them is computed in double
and rounded once, so that a test sees its own rounding errors and not those of the reference.
README.md describes the format and the names.
"""

import argparse
import itertools
import math
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


def write(path, tensors):
    """tensors: name -> array; integers are stored as int32, all else as float32."""
    with open(path, "wb") as file:
        file.write(b"STPTGOLD" + struct.pack("<I", len(tensors)))
        for name, value in tensors.items():
            if isinstance(value, torch.Tensor):
                value = value.detach().numpy()
            value = np.asarray(value)
            integer = np.issubdtype(value.dtype, np.integer)
            encoded = name.encode()
            file.write(struct.pack("<I", len(encoded)) + encoded)
            file.write(struct.pack("<I", value.ndim) + struct.pack(f"<{value.ndim}q", *value.shape))
            file.write(struct.pack("<I", 1 if integer else 0))
            file.write(value.astype("<i4" if integer else "<f4").tobytes())
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


class Random:
    """Random tensors whose values are exactly representable in float32."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, mean=0.0, stddev=1.0):
        value = torch.randn(shape, generator=self.generator) * stddev + mean
        return value.float().double()

    def uniform(self, *shape, low=0.0, high=1.0):
        value = torch.rand(shape, generator=self.generator) * (high - low) + low
        return value.float().double()


def pair(number):
    """Of height and width, as PyTorch takes one number for both."""
    return number if isinstance(number, tuple) else (number, number)


def conv2d():
    cases = {
        # name: n, c, h, w, filters, kernel_h, kernel_w, stride, padding, bias[, groups[, dilation]]
        "k3s1p1": (2, 3, 7, 5, 4, 3, 3, 1, 1, False),
        "k3s2p1_bias": (2, 5, 9, 7, 7, 3, 3, 2, 1, True),
        "k1s2": (3, 6, 5, 5, 9, 1, 1, 2, 0, False),
        "k3x2_batch1": (1, 4, 6, 7, 3, 3, 2, 1, 1, True),
        "k5s1": (2, 1, 9, 9, 6, 5, 5, 1, 0, True),
        "k7s2p3": (1, 3, 13, 11, 5, 7, 7, 2, 3, False),
        "c17_k18": (1, 17, 5, 4, 18, 3, 3, 1, 1, False),
        "c16_k32": (1, 16, 4, 4, 32, 1, 1, 1, 0, True),
        "groups4": (2, 8, 5, 4, 12, 3, 3, 1, 1, True, 4),
        "groups2_c32": (1, 32, 4, 4, 32, 3, 3, 2, 1, False, 2),
        "depthwise": (2, 5, 6, 5, 10, 3, 3, 2, 1, True, 5),
        "k1x7": (2, 4, 3, 8, 5, 1, 7, 1, (0, 3), False),
        "k7x1": (1, 4, 8, 3, 5, 7, 1, 1, (3, 0), True),
        "dilated": (1, 3, 8, 7, 4, 3, 3, 1, 2, False, 1, 2),
        "all_differ": (2, 4, 9, 8, 6, 3, 2, (2, 1), (1, 3), True, 2, (2, 3)),
        "depthwise_dilated": (1, 9, 7, 8, 9, 3, 3, (1, 2), (2, 1), False, 9, (2, 1)),
    }
    out = {}
    random = Random(1)
    for name, (n, c, h, w, k, kh, kw, stride, padding, bias, *rest) in cases.items():
        groups, dilation = (*rest, 1, 1)[:2]
        stride, padding, dilation = map(pair, (stride, padding, dilation))
        seen = c // groups
        src = random.normal(n, c, h, w).requires_grad_()
        weights = random.normal(k, seen, kh, kw, stddev=(seen * kh * kw) ** -0.5).requires_grad_()
        b = random.normal(k).requires_grad_() if bias else None
        dst = F.conv2d(src, weights, b, stride, padding, dilation, groups)
        d_dst = random.normal(*dst.shape)
        dst.backward(d_dst)
        out[f"{name}/geometry"] = np.array([kh, kw, *stride, *padding, *dilation, groups])
        out[f"{name}/src"] = src
        out[f"{name}/weights"] = weights
        if bias:
            out[f"{name}/bias"] = b
        out[f"{name}/dst"] = dst
        out[f"{name}/d_dst"] = d_dst
        out[f"{name}/d_src"] = src.grad
        out[f"{name}/d_weights"] = weights.grad
        if bias:
            out[f"{name}/d_bias"] = b.grad
    return out


def concat():
    cases = {
        # name: n, h, w, channels of the parts
        "two": (2, 3, 4, (5, 2)),
        "blocks": (1, 2, 3, (16, 32, 17)),
        "pixel": (3, 1, 1, (1, 8, 3)),
    }
    out = {}
    random = Random(7)
    for name, (n, h, w, channels) in cases.items():
        parts = [random.normal(n, c, h, w).requires_grad_() for c in channels]
        whole = torch.cat(parts, dim=1)
        d_whole = random.normal(*whole.shape)
        whole.backward(d_whole)
        for i, part in enumerate(parts):
            out[f"{name}/part{i}"] = part
            out[f"{name}/d_part{i}"] = part.grad
        out[f"{name}/whole"] = whole
        out[f"{name}/d_whole"] = d_whole
    return out


def philox4x32_10(counter, key):
    """Salmon et al. 2011, section 3.3."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def dropout():
    cases = {
        # name: n, c, h, w, rate, layer, what is dropped: 0 elements, 1 images, 2 channels
        "vector": (3, 10, 1, 1, 0.5, 3, 0),
        "image": (2, 5, 3, 2, 0.1, 1, 0),
        "blocks": (1, 24, 2, 3, 0.8, 4000, 0),
        "none": (2, 3, 1, 2, 0.0, 2, 0),
        "whole": (6, 4, 1, 2, 0.4, 5, 1),
        "channels": (2, 11, 2, 3, 0.5, 6, 2),
    }
    out = {}
    random = Random(8)
    for name, (n, c, h, w, rate, layer, dropped) in cases.items():
        x = random.normal(n, c, h, w).requires_grad_()
        keys = [(1234567 * (image + 1), 7654321 + image) for image in range(n)]  # exact in float32
        kept = torch.zeros(n, c, h, w)
        for image, channel, i, j in itertools.product(range(n), range(c), range(h), range(w)):
            place = ((i * w + j) * c + channel, 0, channel)[dropped]
            word = philox4x32_10((place // 4, layer, 0, 0), keys[image])[place % 4]
            kept[image, channel, i, j] = word / 2**32 >= rate
        y = x * kept / (1 - rate)
        d_y = random.normal(n, c, h, w)
        y.backward(d_y)
        out[f"{name}/settings"] = torch.tensor([rate, layer, dropped])
        out[f"{name}/keys"] = torch.tensor(keys)
        out |= {f"{name}/x": x, f"{name}/y": y, f"{name}/d_y": d_y, f"{name}/d_x": x.grad}
    return out


def channel_shuffle():
    cases = {
        # name: n, c, h, w, groups
        "halves": (2, 24, 3, 2, 2),
        "thirds": (1, 18, 2, 3, 3),
        "pixel": (3, 10, 1, 1, 5),
    }
    out = {}
    random = Random(16)
    for name, (n, c, h, w, groups) in cases.items():
        x = random.normal(n, c, h, w).requires_grad_()
        y = F.channel_shuffle(x, groups)
        d_y = random.normal(n, c, h, w)
        y.backward(d_y)
        out[f"{name}/settings"] = torch.tensor([groups])
        out |= {f"{name}/x": x, f"{name}/y": y, f"{name}/d_y": d_y, f"{name}/d_x": x.grad}
    return out


def multiply():
    cases = {
        # name: n, c, h, w
        "image": (2, 5, 3, 4),
        "blocks": (1, 24, 2, 3),
        "pixel": (3, 7, 1, 1),
    }
    out = {}
    random = Random(9)
    for name, (n, c, h, w) in cases.items():
        x = random.normal(n, c, h, w).requires_grad_()
        factors = random.normal(n, c, 1, 1).requires_grad_()
        y = x * factors
        d_y = random.normal(n, c, h, w)
        y.backward(d_y)
        out |= {f"{name}/x": x, f"{name}/factors": factors, f"{name}/y": y, f"{name}/d_y": d_y}
        out |= {f"{name}/d_x": x.grad, f"{name}/d_factors": factors.grad}
    return out


def activation():
    functions = {
        "relu6": F.relu6,
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "silu": F.silu,
        "mish": F.mish,
        "gelu": F.gelu,
        "hard_swish": F.hardswish,
        "hard_sigmoid": F.hardsigmoid,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    out = {}
    random = Random(8)
    for name, function in functions.items():
        x = random.uniform(2, 19, 2, 1, low=-7.5, high=7.5)
        # Kinks, and where functions have run out.
        special = torch.tensor([-3, 3, 0, -0.0, 6, math.inf, -math.inf, 100, -100, 1e-30])
        if name == "mish":
            special = special.clamp(-1000, 1000)  # at infinities its gradient is NaN here, not everywhere
        x.view(-1)[::7][: len(special)] = special.float().double()
        x.requires_grad_()
        y = function(x)
        d_y = random.uniform(*y.shape, low=-1, high=1)
        y.backward(d_y)
        out[f"{name}/x"] = x
        out[f"{name}/y"] = y
        out[f"{name}/d_y"] = d_y
        out[f"{name}/d_x"] = x.grad
    return out


def fully_connected():
    cases = {
        # name: n, c, h, w, outputs[, bias]
        "flat": (4, 13, 1, 1, 10),
        "spatial": (3, 5, 3, 2, 7),
        "batch1": (1, 17, 2, 2, 5),
        "c16": (2, 16, 3, 3, 16),
        "no_bias": (3, 5, 3, 2, 7, False),
    }
    out = {}
    random = Random(2)
    for name, (n, c, h, w, k, *rest) in cases.items():
        src = random.normal(n, c, h, w).requires_grad_()
        weights = random.normal(k, c * h * w, stddev=(c * h * w) ** -0.5).requires_grad_()
        bias = None if rest else random.normal(k).requires_grad_()
        dst = F.linear(src.flatten(1), weights, bias)
        d_dst = random.normal(*dst.shape)
        dst.backward(d_dst)
        out[f"{name}/src"] = src
        out[f"{name}/weights"] = weights
        if bias is not None:
            out[f"{name}/bias"] = bias
        out[f"{name}/dst"] = dst
        out[f"{name}/d_dst"] = d_dst
        out[f"{name}/d_src"] = src.grad
        out[f"{name}/d_weights"] = weights.grad
        if bias is not None:
            out[f"{name}/d_bias"] = bias.grad
    return out


def pool2d():
    cases = {
        # name: n, c, h, w, kind (0 max, 1 average, 2 average that counts the padding), kernel_h,
        # kernel_w, stride, padding[, ceil_mode]
        "max_k2s2": (2, 3, 7, 5, 0, 2, 2, 2, 0),
        "max_k3s2p1": (2, 17, 8, 7, 0, 3, 3, 2, 1),
        "max_k3s1_batch1": (1, 5, 5, 6, 0, 3, 3, 1, 0),
        "average_k3s2p1": (2, 17, 7, 8, 1, 3, 3, 2, 1),
        "average_k2x3s1": (1, 4, 5, 5, 1, 2, 3, 1, 0),
        "average_global": (3, 16, 7, 5, 1, 7, 5, 1, 0),
        "average_global_batch1": (1, 19, 4, 4, 1, 4, 4, 1, 0),
        "max_differ": (1, 3, 8, 7, 0, 4, 3, (2, 3), (2, 1)),
        "average_differ": (2, 2, 7, 8, 1, 2, 5, (1, 2), (0, 2)),
        "max_ceil": (2, 3, 6, 8, 0, 3, 3, 2, 0, True),
        "max_ceil_small": (1, 5, 2, 2, 0, 3, 3, 2, 0, True),
        "max_ceil_padding": (1, 2, 5, 5, 0, 2, 2, 4, 1, True),  # no window begins behind the source
        "average_ceil": (1, 5, 6, 8, 1, 3, 3, 2, 1, True),
        "average_padding": (2, 3, 7, 5, 2, 3, 4, 2, (1, 2)),
        "average_padding_ceil": (2, 3, 6, 8, 2, 3, 3, 2, 1, True),
        "average_padding_ceil_differ": (1, 4, 7, 9, 2, 4, 5, (3, 4), (0, 2), True),
    }
    out = {}
    random = Random(3)
    for name, (n, c, h, w, kind, kh, kw, stride, padding, *rest) in cases.items():
        ceil_mode = bool(rest)
        stride, padding = pair(stride), pair(padding)
        src = random.normal(n, c, h, w).requires_grad_()
        if kind == 0:
            dst = F.max_pool2d(src, (kh, kw), stride, padding, ceil_mode=ceil_mode)
        else:
            dst = F.avg_pool2d(src, (kh, kw), stride, padding, ceil_mode, kind == 2)
        d_dst = random.normal(*dst.shape)
        dst.backward(d_dst)
        out[f"{name}/geometry"] = np.array([kind, kh, kw, *stride, *padding, ceil_mode])
        out[f"{name}/src"] = src
        out[f"{name}/dst"] = dst
        out[f"{name}/d_dst"] = d_dst
        out[f"{name}/d_src"] = src.grad
    return out


def batch_norm():
    cases = {
        # name: n, c, h, w, relu, residual, epsilon, momentum, mean of x
        "plain": (3, 5, 4, 3, False, False, 1e-5, 0.1, 0.5),
        "relu": (2, 19, 3, 5, True, False, 1e-5, 0.1, -0.5),
        "residual": (2, 8, 5, 3, False, True, 1e-3, 0.25, 0.0),
        "relu_residual": (2, 17, 5, 5, True, True, 1e-5, 0.1, 1.0),
        "batch1": (1, 16, 3, 3, True, True, 1e-5, 0.1, 0.0),
        "matrix": (9, 7, 1, 1, True, False, 1e-5, 0.1, 0.0),
        "far_mean": (2, 3, 8, 8, False, False, 1e-5, 0.1, 1000.0),
        # Named as the activation instead of the ReLU.
        "relu6": (2, 19, 4, 3, False, False, 1e-5, 0.1, 0.5),
        "leaky_relu": (2, 8, 3, 5, False, False, 1e-5, 0.1, 0.0),
        "hard_swish": (3, 18, 3, 3, False, False, 1e-5, 0.1, -0.5),
        "silu": (2, 17, 5, 3, False, False, 1e-5, 0.1, 0.5),
    }
    functions = {"relu6": F.relu6, "leaky_relu": F.leaky_relu, "hard_swish": F.hardswish, "silu": F.silu}
    out = {}
    random = Random(4)
    for name, (n, c, h, w, relu, residual, epsilon, momentum, mean) in cases.items():
        # The settings too are what float32 makes of them.
        epsilon, momentum = float(np.float32(epsilon)), float(np.float32(momentum))
        x = random.normal(n, c, h, w, mean=mean, stddev=2.0).requires_grad_()
        function = functions.get(name, F.relu if relu else lambda value: value)
        gamma = random.normal(c, stddev=4.0 if name in functions else 1.0).requires_grad_()
        beta = random.normal(c).requires_grad_()
        r = random.normal(n, c, h, w).requires_grad_() if residual else None
        running_mean = random.normal(c)
        running_variance = random.uniform(c, low=0.5, high=2.0)

        def act(value):
            return function(value + r if residual else value)

        out[f"{name}/flags"] = np.array([relu, residual], dtype=np.int32)
        out[f"{name}/settings"] = np.array([epsilon, momentum])
        out[f"{name}/x"] = x
        if residual:
            out[f"{name}/residual"] = r
        out[f"{name}/gamma"] = gamma
        out[f"{name}/beta"] = beta
        out[f"{name}/running_mean"] = running_mean.clone()
        out[f"{name}/running_variance"] = running_variance.clone()
        out[f"{name}/y_inference"] = act(
            F.batch_norm(x, running_mean, running_variance, gamma, beta, False, 0, epsilon)
        )
        y = act(
            F.batch_norm(x, running_mean, running_variance, gamma, beta, True, momentum, epsilon)
        )
        d_y = random.normal(*y.shape)
        y.backward(d_y)
        variance, m = torch.var_mean(x.detach(), dim=(0, 2, 3), correction=0)
        out[f"{name}/y"] = y
        out[f"{name}/mean"] = m
        out[f"{name}/inverse_stddev"] = (variance + epsilon).rsqrt()
        out[f"{name}/running_mean_after"] = running_mean
        out[f"{name}/running_variance_after"] = running_variance
        out[f"{name}/d_y"] = d_y
        out[f"{name}/d_x"] = x.grad
        if residual:
            out[f"{name}/d_residual"] = r.grad
        out[f"{name}/d_gamma"] = gamma.grad
        out[f"{name}/d_beta"] = beta.grad
    return out


def group_norm():
    cases = {
        # name: n, c, h, w, groups, relu, residual, epsilon, mean of x
        "plain": (3, 6, 4, 3, 2, False, False, 1e-5, 0.5),
        "relu": (2, 20, 3, 5, 5, True, False, 1e-5, -0.5),
        "residual": (2, 24, 3, 3, 2, False, True, 1e-3, 0.0),
        "relu_residual": (2, 18, 5, 5, 6, True, True, 1e-5, 1.0),
        "one_group": (2, 17, 3, 3, 1, True, True, 1e-5, 0.0),
        "instance": (3, 7, 4, 4, 7, True, False, 1e-5, 0.0),
        "matrix": (9, 12, 1, 1, 3, True, False, 1e-5, 0.0),
        "far_mean": (2, 4, 8, 8, 2, False, False, 1e-5, 1000.0),
    }
    out = {}
    random = Random(14)
    for name, (n, c, h, w, groups, relu, residual, epsilon, mean) in cases.items():
        epsilon = float(np.float32(epsilon))
        x = random.normal(n, c, h, w, mean=mean, stddev=2.0).requires_grad_()
        gamma = random.normal(c).requires_grad_()
        beta = random.normal(c).requires_grad_()
        r = random.normal(n, c, h, w).requires_grad_() if residual else None
        y = F.group_norm(x, groups, gamma, beta, epsilon)
        y = y + r if residual else y
        y = F.relu(y) if relu else y
        d_y = random.normal(*y.shape)
        y.backward(d_y)
        out[f"{name}/flags"] = np.array([relu, residual, groups], dtype=np.int32)
        out[f"{name}/epsilon"] = np.array([epsilon])
        out[f"{name}/x"] = x
        out[f"{name}/gamma"] = gamma
        out[f"{name}/beta"] = beta
        out[f"{name}/y"] = y
        out[f"{name}/d_y"] = d_y
        out[f"{name}/d_x"] = x.grad
        if residual:
            out[f"{name}/residual"] = r
            out[f"{name}/d_residual"] = r.grad
        out[f"{name}/d_gamma"] = gamma.grad
        out[f"{name}/d_beta"] = beta.grad
    return out


def pad2d():
    cases = {
        # name: n, c, h, w, above, to the left, below, to the right
        "same": (2, 10, 5, 4, 0, 0, 1, 1),
        "around": (1, 24, 2, 3, 2, 1, 3, 4),
    }
    out = {}
    random = Random(18)
    for name, (n, c, h, w, top, left, bottom, right) in cases.items():
        x = random.normal(n, c, h, w).requires_grad_()
        y = F.pad(x, (left, right, top, bottom))
        d_y = random.normal(*y.shape)
        y.backward(d_y)
        out[f"{name}/before"] = torch.tensor([top, left])
        out |= {f"{name}/x": x, f"{name}/y": y, f"{name}/d_y": d_y, f"{name}/d_x": x.grad}
    return out


def layer_norm():
    cases = {
        # name: n, c, h, w, epsilon, mean of x
        "image": (2, 10, 3, 4, 1e-5, 0.0),
        "blocks": (1, 48, 3, 3, 1e-6, 1.0),
        "vector": (5, 17, 1, 1, 0.1, 0.0),
        "far_mean": (2, 20, 2, 2, 1e-5, 1000.0),
    }
    out = {}
    random = Random(17)
    for name, (n, c, h, w, epsilon, mean) in cases.items():
        epsilon = float(np.float32(epsilon))
        x = random.normal(n, c, h, w, mean=mean, stddev=2.0).requires_grad_()
        gamma = random.normal(c).requires_grad_()
        beta = random.normal(c).requires_grad_()
        y = F.layer_norm(x.permute(0, 2, 3, 1), (c,), gamma, beta, epsilon).permute(0, 3, 1, 2)
        d_y = random.normal(*y.shape)
        y.backward(d_y)
        out[f"{name}/epsilon"] = np.array([epsilon])
        out |= {f"{name}/x": x, f"{name}/gamma": gamma, f"{name}/beta": beta, f"{name}/y": y}
        out |= {f"{name}/d_y": d_y, f"{name}/d_x": x.grad, f"{name}/d_gamma": gamma.grad}
        out[f"{name}/d_beta"] = beta.grad
    return out


def softmax_cross_entropy():
    cases = {
        # name: n, classes, scale of the logits, label smoothing
        "small": (5, 3, 1.0, 0.0),
        "ten": (7, 10, 3.0, 0.0),
        "batch1": (1, 17, 1.0, 0.0),
        "large_logits": (4, 33, 200.0, 0.0),
        "two": (6, 2, 10.0, 0.0),
        "smoothed": (7, 10, 3.0, 0.1),
        "smoothed_large_logits": (4, 33, 200.0, 0.25),
    }
    out = {}
    random = Random(5)
    for name, (n, classes, stddev, smoothing) in cases.items():
        logits = random.normal(n, classes, stddev=stddev).requires_grad_()
        labels = torch.randint(0, classes, (n,), generator=random.generator)
        loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        loss.mean().backward()
        own = logits.detach().gather(1, labels[:, None])
        out[f"{name}/settings"] = np.array([smoothing])
        out[f"{name}/logits"] = logits
        out[f"{name}/labels"] = labels
        out[f"{name}/loss"] = loss
        out[f"{name}/rank"] = (logits.detach() > own).sum(1)
        out[f"{name}/d_logits"] = logits.grad
    return out


def sgd():
    """Four steps with a learning rate that changes; "<case>/gradients" has one row a step."""
    cases = {
        # name: count, momentum, weight_decay, form
        "plain": (37, 0.0, 0.0, "velocity"),
        "momentum": (37, 0.9, 0.0, "velocity"),
        "decay": (101, 0.9, 5e-4, "velocity"),
        "nesterov": (101, 0.9, 5e-4, "nesterov"),
        "chainer": (101, 0.9, 5e-4, "lr_in_velocity"),
    }
    forms = ("velocity", "nesterov", "lr_in_velocity")
    learning_rates = [float(np.float32(lr)) for lr in (0.1, 0.2, 0.05, 0.05)]
    out = {}
    random = Random(6)
    for name, (count, momentum, decay, form) in cases.items():
        momentum, decay = float(np.float32(momentum)), float(np.float32(decay))
        weights = random.normal(count)
        gradients = random.normal(len(learning_rates), count)
        out[f"{name}/form"] = np.array([forms.index(form)], dtype=np.int32)
        out[f"{name}/settings"] = np.array([momentum, decay])
        out[f"{name}/learning_rates"] = np.array(learning_rates)
        out[f"{name}/weights"] = weights.clone()
        out[f"{name}/gradients"] = gradients
        if form == "lr_in_velocity":
            # Chainer: MomentumSGD; weight decay is a hook that adds decay * w to the gradient.
            w, v = weights.numpy().copy(), np.zeros(count)
            for lr, gradient in zip(learning_rates, gradients.numpy()):
                g = gradient + decay * w
                v = momentum * v - lr * g
                w = w + v
        else:
            w = torch.nn.Parameter(weights)
            optimizer = torch.optim.SGD(
                [w], lr=1.0, momentum=momentum, weight_decay=decay, nesterov=form == "nesterov"
            )
            for lr, gradient in zip(learning_rates, gradients):
                optimizer.param_groups[0]["lr"] = lr
                w.grad = gradient.clone()
                optimizer.step()
            v = optimizer.state[w].get("momentum_buffer") if momentum else None
            v = gradients[-1] if v is None else v
        out[f"{name}/weights_after"] = w
        out[f"{name}/velocity_after"] = v
    return out


def adamw():
    """Five steps with a learning rate that changes; "<case>/gradients" has one row a step."""
    cases = {
        # name: count, beta1, beta2, epsilon, weight_decay
        "default": (37, 0.9, 0.999, 1e-8, 1e-2),
        "fast": (101, 0.5, 0.9, 1e-3, 0.3),
        "no_momentum": (23, 0.0, 0.99, 1e-8, 0.0),
        "no_memory": (23, 0.9, 0.0, 1e-8, 0.0),
    }
    learning_rates = [float(np.float32(lr)) for lr in (0.1, 0.2, 0.05, 0.05, 0.001)]
    out = {}
    random = Random(26)
    for name, (count, *settings) in cases.items():
        beta1, beta2, epsilon, decay = (float(np.float32(value)) for value in settings)
        weights = random.normal(count)
        gradients = random.normal(len(learning_rates), count)
        gradients[:, :3] *= 1e-6
        gradients[:2, 3:6] = 0
        out[f"{name}/settings"] = np.array([beta1, beta2, epsilon, decay])
        out[f"{name}/learning_rates"] = np.array(learning_rates)
        out[f"{name}/weights"] = weights.clone()
        out[f"{name}/gradients"] = gradients
        w = torch.nn.Parameter(weights)
        optimizer = torch.optim.AdamW(
            [w], lr=1.0, betas=(beta1, beta2), eps=epsilon, weight_decay=decay
        )
        for lr, gradient in zip(learning_rates, gradients):
            optimizer.param_groups[0]["lr"] = lr
            w.grad = gradient.clone()
            optimizer.step()
        out[f"{name}/weights_after"] = w
        out[f"{name}/first_after"] = optimizer.state[w]["exp_avg"]
        out[f"{name}/second_after"] = optimizer.state[w]["exp_avg_sq"]
    return out


# --- one training step of ResNet-8 -----------------------------------------------------------------


def formula(t, shape, scale):
    """Element i of tensor t: a value in [-scale/2, scale/2) that needs no random generator."""
    i = np.arange(math.prod(shape), dtype=np.uint64)
    u = (i * np.uint64(2654435761) + np.uint64(t * 40503 + 12345)) % np.uint64(1 << 32)
    value = scale * (u.astype(np.float64) / 2.0**32 - 0.5)
    return torch.from_numpy(value.astype(np.float32).astype(np.float64)).reshape(shape)


class Block(torch.nn.Module):
    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, filters, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(filters)
        self.conv2 = torch.nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(filters)
        self.shortcut = torch.nn.Sequential()
        if stride != 1 or inputs != filters:
            self.shortcut.add_module(
                "conv", torch.nn.Conv2d(inputs, filters, 1, stride, bias=False)
            )
            self.shortcut.add_module("bn", torch.nn.BatchNorm2d(filters))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet8(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = torch.nn.BatchNorm2d(16)
        self.stage1 = torch.nn.Sequential()
        self.stage1.add_module("block1", Block(16, 16, 1))
        self.stage2 = torch.nn.Sequential()
        self.stage2.add_module("block1", Block(16, 32, 2))
        self.stage3 = torch.nn.Sequential()
        self.stage3.add_module("block1", Block(32, 64, 2))
        self.fc = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def resnet8_step(dtype=torch.float64):
    model = ResNet8()
    for t, (name, parameter) in enumerate(model.named_parameters()):
        shape = tuple(parameter.shape)
        with torch.no_grad():
            if len(shape) > 1:
                fan_in = math.prod(shape[1:])
                parameter.copy_(formula(t, shape, 2 * math.sqrt(6 / fan_in)))
            else:
                parameter.fill_(0 if name.endswith("bias") else 1)
    initial = {name: getattr(model, name).weight.detach().clone() for name in ("conv", "fc")}
    model.to(dtype)
    images = formula(1000, (4, 1, 28, 28), 2.0).to(dtype)
    labels = torch.arange(4) * 3 % 10
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": others}], lr=0.1, momentum=0.9
    )
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()

    def sample(value):
        flat = value.detach().flatten()
        stride = len(flat) // 2048
        return flat[::stride][:2048] if len(flat) > 2048 else value

    out = {"images": images, "labels": labels, "loss": loss.reshape(1), "logits": logits}
    out |= {f"{name}.weight/initial": value for name, value in initial.items()}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.double()
        out[f"{name}/grad"] = sample(gradient)
        out[f"{name}/grad_stats"] = np.array([float(gradient.sum()), float(gradient.norm())])
        out[f"{name}/updated"] = sample(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            out[name.removesuffix(".running_mean") + "/running_mean"] = buffer
        elif name.endswith("running_var"):
            out[name.removesuffix(".running_var") + "/running_variance"] = buffer
    return out


# --- one training step of ResNet-50 ----------------------------------------------------------------


def scrambled(t, shape, scale):
    """As formula(), but with the bits mixed, so that no two filters of a deep network are alike."""
    i = np.arange(math.prod(shape), dtype=np.uint64)
    u = (i * np.uint64(2654435761) + np.uint64(t * 40503 + 12345)).astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        u = (u ^ (u >> np.uint32(shift))) * np.uint32(factor)
    u ^= u >> np.uint32(16)
    value = scale * (u.astype(np.float64) / 2.0**32 - 0.5)
    return torch.from_numpy(value.astype(np.float32).astype(np.float64)).reshape(shape)


class Bottleneck(torch.nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1 = torch.nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)
        self.conv2 = torch.nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(width)
        self.conv3 = torch.nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = torch.nn.BatchNorm2d(outputs)
        self.downsample = torch.nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample.append(torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.downsample.append(torch.nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(64)
        inputs = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            layer = torch.nn.Sequential()
            for index in range(blocks):
                layer.append(Bottleneck(inputs, 64 << stage, 2 if stage and not index else 1))
                inputs = 256 << stage
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = torch.nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


def resnet50_step(dtype=torch.float64):
    model = ResNet50(10)
    for t, (name, parameter) in enumerate(model.named_parameters()):
        shape = tuple(parameter.shape)
        with torch.no_grad():
            if len(shape) > 1:
                parameter.copy_(scrambled(t, shape, 2 * math.sqrt(6 / math.prod(shape[1:]))))
            else:
                # Small steps from block to block: else rounding errors grow too much on the way.
                last = name.endswith("bn3.weight")
                offset = 0 if name.endswith("bias") else 0.25 if last else 1
                parameter.copy_(scrambled(t, shape, 0.25) + offset)
    initial = {name: getattr(model, name).weight.detach()[:2].clone() for name in ("conv1", "fc")}
    model.to(dtype)
    images = scrambled(1000, (4, 3, 64, 64), 2.0).to(dtype)
    labels = torch.arange(4) * 3 % 10
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()

    def sample(value):
        flat = value.detach().flatten()
        return flat[:: max(len(flat) // 64, 1)][:64]

    out = {"labels": labels, "loss": loss.reshape(1), "logits": logits}
    out |= {f"{name}.weight/initial": value for name, value in initial.items()}
    for name, parameter in model.named_parameters():
        out[f"{name}/grad"] = sample(parameter.grad)
        out[f"{name}/grad_norm"] = parameter.grad.double().norm().reshape(1)
    for name, buffer in model.named_buffers():
        if not name.endswith("num_batches_tracked"):
            out[name] = sample(buffer)
    return out


def torchvision_losses():
    import torchvision

    out = {}
    for name in ("resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small",
                 "mobilenet_v3_large", "efficientnet_b0"):
        model = torchvision.models.get_model(name, num_classes=10).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train()
        for key, parameter in model.named_parameters():
            t = 0x811C9DC5  # FNV-1a
            for character in key.encode():
                t = (t ^ character) * 0x01000193 % 2**32
            shape = tuple(parameter.shape)
            with torch.no_grad():
                if len(shape) > 1:
                    parameter.copy_(scrambled(t, shape, 2 * math.sqrt(6 / math.prod(shape[1:]))))
                else:
                    offset = 0 if key.endswith("bias") else 1
                    parameter.copy_(scrambled(t, shape, 0.25) + offset)
        images = scrambled(1000, (4, 3, 64, 64), 2.0)
        out[name] = F.cross_entropy(model(images), torch.arange(4) * 3 % 10, reduction="none")
    return out


def main():
    files = {
        f.__name__: f
        for f in (conv2d, concat, channel_shuffle, dropout, multiply, activation, fully_connected, pad2d,
                  pool2d, batch_norm, group_norm, layer_norm, softmax_cross_entropy, sgd, adamw,
                  resnet8_step, resnet50_step, torchvision_losses)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="files to write; all if none is given")
    folder = pathlib.Path(__file__).resolve().parent
    parser.add_argument("--out", type=pathlib.Path, default=folder)
    args = parser.parse_args()
    for name in args.names or files:
        if name not in files:
            parser.error(f"{name}: unknown; one of {', '.join(files)}")
        write(args.out / f"{name}.bin", files[name]())


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes a network file of a PyTorch model, and its weights if asked to.

    pip install torch torchvision safetensors        # on Debian into a virtual environment
    python3 scripts/from_pytorch.py 'nets.py:Net(width=32)' --image 3x32x32 --to net.json
    python3 scripts/from_pytorch.py 'torchvision.models:resnet18(weights="DEFAULT")' --image 3x224x224 \\
        --to resnet18.json --weights resnet18.safetensors
    ./stpt_starpu --config run.json --set model.network=net.json    # images of that size

Behind the colon of a file or a module stands the Python that gives the model there. Layers are called as its modules,
so that what `stpt_starpu --export` writes can be loaded into the model again. What a model does with images of the
given size is looked at (torch.export, in training mode); pools that adapt to the image are fixed by it. A model that
does anything else than docs/networks.md has is refused: each such line once, exit status 2, and nothing is written.
"""
import argparse
import functools
import importlib
import importlib.util
import itertools
import json
import logging
import math
import operator
import os
from pathlib import Path
import re
import sys

IMAGES = 2  # in the batch that is looked at: a model may treat one image alone differently
MOST_INPUTS = 64
MOST_DIMENSIONS = 4  # of a scale
MOST_FACTOR = 1000  # of an affine
SIDES = ("top", "bottom", "left", "right")

# Those without an option, by PyTorch's names.
ACTIVATIONS = {"relu": "relu", "relu6": "relu6", "silu": "silu", "mish": "mish", "hardswish": "hard_swish",
               "hardsigmoid": "hard_sigmoid", "sigmoid": "sigmoid", "tanh": "tanh"}


NORMALISATIONS = ("batch_norm", "group_norm", "layer_norm")

# Orders that the dimensions of an image may stand in behind the images'; in the last two its channels are groups of
# some, as channels are shuffled by.
IMAGE, PIXELS, GROUPS, DEALT = "chw", "hwc", "gchw", "cghw"


class Refused(Exception):
    """What a model does that no network file can say."""


class Unknown(Exception):
    """What depends on something that was refused."""


class Layer:
    def __init__(self, kind, inputs, shape, keys=None, name="", place=""):
        self.kind = kind
        self.inputs = inputs
        self.shape = shape  # (channels, height, width) of the output
        self.keys = keys or {}
        self.name = name  # of layers with parameters that of their module, else empty
        self.place = place  # the module it was met in

    def tensors(self):
        """What a weights file has for it."""
        if not self.name:
            return []
        if self.kind == "scale":
            return [self.name]
        has_bias = self.keys.get("bias", self.kind in ("fully_connected",) + NORMALISATIONS)
        keys = ["weight"] + ["bias"] * has_bias + ["running_mean", "running_var"] * (self.kind == "batch_norm")
        return [f"{self.name}.{key}" for key in keys]


class Memory:
    """What a tensor and its views hold at a place in the program: operations in place change it."""

    def __init__(self, layer):
        self.layer = layer
        self.softmax = False  # of the layer's output
        self.taken_apart = False  # some of it is another tensor, too, which would change with it


class Tensor:
    def __init__(self, memory, shape, order=None):
        self.memory = memory
        self.shape = shape  # PyTorch's, with the images
        self.order = order or IMAGE  # of the dimensions, also of those that a vector lacks


class Noise:
    """A tensor of random zeros and ones, one for each image, as stochastic depth multiplies by."""

    def __init__(self, shape, kept=None, scaled=False):
        self.shape = shape
        self.kept = kept
        self.scaled = scaled
        self.used = False


UNKNOWN = object()


class Stored:
    """A parameter or a buffer of the model, by its name there."""

    def __init__(self, name, shape, learnt=True, seen_as=None):
        self.name = name
        self.shape = shape
        self.learnt = learnt
        self.seen_as = seen_as or shape  # by a view

    def is_own(self, name):
        return self.name == name and self.seen_as == self.shape


def pair(value):
    value = list(value) if isinstance(value, (list, tuple)) else [value]
    return value * 2 if len(value) == 1 else value


def is_number(value, number):
    return isinstance(value, (int, float)) and value == number


def brief(value):
    """[3, 3] as 3."""
    return value[0] if value[0] == value[1] else value


def set_if(keys, otherwise, **values):
    """Adds those that differ from what a file may leave out."""
    keys.update({key: value for key, value in values.items() if value != otherwise})
    return keys


class Converter:
    """Goes through the operations of an exported program, each becoming a layer, a view or nothing."""

    def __init__(self, program):
        self.layers = []
        self.problems = {}  # the first of each line of the source
        self.values = {}
        self.output = None
        signature = program.graph_signature
        parameters, buffers = signature.inputs_to_parameters, signature.inputs_to_buffers
        for node in program.graph.nodes:
            if node.op == "placeholder":
                value = node.meta["val"]
                if node.name in parameters or node.name in buffers:
                    name = parameters.get(node.name) or buffers[node.name]
                    self.values[node] = Stored(name, tuple(value.shape), learnt=node.name in parameters)
                elif node.name in signature.user_inputs:
                    layer = Layer("input", [], tuple(value.shape[1:]), name="input")
                    self.values[node] = Tensor(Memory(layer), tuple(value.shape))
            elif node.op == "call_function":
                try:
                    self.values[node] = self.operation(node)
                except Unknown:
                    self.values[node] = UNKNOWN
                except Refused as problem:
                    # A block that is there many times need not be complained of as often.
                    where = [part for part in (source_line(node), module_of(node)) if part]
                    self.problems.setdefault(where[0] if where else str(problem), ": ".join(where + [str(problem)]))
                    self.values[node] = UNKNOWN
            elif node.op == "output":
                self.finish(node.args[0])

    def operation(self, node):
        if node.target is operator.getitem:
            whole, index = self.value(node.args[0]), node.args[1]
            if whole is UNKNOWN or not isinstance(whole, list):
                raise Unknown
            return whole[index]
        if not hasattr(node.target, "_schema"):
            name = getattr(node.target, "__name__", str(node.target))
            said = {"wrap_with_set_grad_enabled": "torch.no_grad", "wrap_with_autocast": "torch.autocast"}
            raise Refused(f"{said.get(name, name)} is not among a network file's layers")
        schema = node.target._schema
        name = schema.name.split("::")[1]
        in_place = name.endswith("_")
        arguments = {}
        for index, argument in enumerate(schema.arguments):
            if index < len(node.args):
                value = node.args[index]
            else:
                value = node.kwargs.get(argument.name, argument.default_value)
            arguments["self" if argument.name == "input" else argument.name] = self.value(value)
        first = next(iter(arguments.values()), None)
        if isinstance(first, Stored) and first.name.endswith("num_batches_tracked"):
            return first
        self.node = node
        self.shape = tuple(node.meta["val"].shape) if hasattr(node.meta.get("val"), "shape") else None
        plain_name = name[:-1] if in_place else name
        if plain_name in ACTIVATIONS:
            handler = functools.partial(self.activation, ACTIVATIONS[plain_name])
        else:
            handler = getattr(self, "on_" + plain_name, None)
        if handler is None:
            raise Refused(f"{name} is not among a network file's layers")
        if any(argument is UNKNOWN for argument in arguments.values()):
            raise Unknown
        result = handler(arguments)
        if in_place and isinstance(first, Noise) and isinstance(result, Noise):
            first.kept, first.scaled = result.kept, result.scaled
            return first
        if in_place:
            if not isinstance(first, Tensor):
                raise Refused(f"{name} in place changes something that is not a layer's output")
            if first.memory.taken_apart:
                raise Refused(f"{name} in place changes a tensor that others are parts of; must make a new one")
            first.memory.layer = result.memory.layer
            first.memory.softmax = result.memory.softmax
            return Tensor(first.memory, result.shape, result.order)
        return result

    def operation_name(self):
        return self.node.target.__name__.split(".")[0]

    def value(self, argument):
        if isinstance(argument, (list, tuple)):
            return [self.value(item) for item in argument]
        return self.values.get(argument, argument) if hasattr(argument, "op") else argument

    # Layers.

    def layer_of(self, tensor, orders=(IMAGE,)):
        if tensor is UNKNOWN:
            raise Unknown
        if isinstance(tensor, Stored):
            raise Refused(f"uses {tensor.name} elsewhere than as a layer's weight or bias")
        if not isinstance(tensor, Tensor):
            raise Refused(f"{self.operation_name()} takes something that is not a layer's output")
        if tensor.order not in orders:
            raise Refused(f"{self.operation_name()} takes permuted dimensions; must take them as images x channels x "
                          "height x width")
        if tensor.memory.softmax:
            raise Refused("goes on after the softmax, which can only be the last")
        return tensor.memory.layer

    def image_of(self, tensor):
        """The layer, for operations on images: its channels must stand where PyTorch has them."""
        layer = self.layer_of(tensor)
        if tensor.shape[1:] not in (layer.shape, layer.shape[:1] if layer.shape[1:] == (1, 1) else None):
            raise Refused(f"takes {shape_text(layer.shape)} as {shape_text(tensor.shape[1:])}")
        return layer

    def append(self, kind, inputs, keys=None, name="", shape=None, order=None):
        if name and any(layer.name == name for layer in self.layers):
            raise Refused("is used a second time; each layer has weights of its own")
        shape = shape or self.shape[1:]
        layer = Layer(kind, inputs, (tuple(shape) + (1, 1))[:3], keys, name, module_of(self.node))
        self.layers.append(layer)
        return Tensor(Memory(layer), self.shape, order)

    def name_of(self, weight, bias=None):
        if isinstance(weight, Stored) and weight.name == "weight":
            raise Refused("is the whole model; must be a module of it, as in nn.Sequential(...)")
        name = weight.name[: -len(".weight")] if isinstance(weight, Stored) else ""
        if not name or not weight.is_own(name + ".weight"):
            raise Refused("has a weight that is not a module's own `weight`")
        if bias is not None and (not isinstance(bias, Stored) or not bias.is_own(name + ".bias")):
            raise Refused("has a bias that is not the module's own `bias`")
        return self.checked_name(name)

    def checked_name(self, name):
        if name == "input":
            raise Refused("has the name of the images; the module must have another")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            raise Refused("is no name for a layer; must be 1 to 64 letters, digits, '.', '_' or '-'")
        return name

    def on_conv2d(self, a):
        name = self.name_of(a["weight"], a["bias"])
        filters, _, *kernel = a["weight"].shape
        stride, dilation, padding = pair(a["stride"]), pair(a["dilation"]), a["padding"]
        layer = self.image_of(a["self"])
        if padding == "same":
            whole = [d * (k - 1) for d, k in zip(dilation, kernel)]
            padding = [size // 2 for size in whole]
            layer = self.padded(layer, bottom=whole[0] % 2, right=whole[1] % 2)
        padding = [0, 0] if padding == "valid" else pair(padding)
        sides = {side: layer.keys.get(side, 0) for side in SIDES} if layer.kind == "pad" else None
        if sides and sides["top"] == sides["bottom"] and sides["left"] == sides["right"]:
            padding = [padding[0] + sides["top"], padding[1] + sides["left"]]
            layer = layer.inputs[0]
        keys = {"filters": filters, "kernel": brief(kernel)}
        set_if(keys, 1, stride=brief(stride), dilation=brief(dilation), groups=a["groups"])
        set_if(keys, 0, padding=brief(padding))
        set_if(keys, False, bias=a["bias"] is not None)
        return self.append("convolution", [layer], keys, name)

    def padded(self, layer, **sides):
        channels, height, width = layer.shape
        keys = {side: size for side, size in sides.items() if size != 0}
        if not keys:
            return layer
        shape = (channels, height + sides.get("top", 0) + sides.get("bottom", 0),
                 width + sides.get("left", 0) + sides.get("right", 0))
        return self.append("pad", [layer], keys, shape=shape).memory.layer

    def on_pad(self, a):
        layer, sizes = self.image_of(a["self"]), a["pad"]
        if a["mode"] != "constant" or a["value"]:
            raise Refused(f"pads with {a['value'] or a['mode']}; must pad with zeros")
        left, right, top, bottom = (list(sizes) + [0, 0, 0, 0])[:4]
        if any(sizes[4:]) or min(sizes) < 0:
            raise Refused(f"pads by {list(sizes)}; must pad height and width, by no less than 0")
        return Tensor(Memory(self.padded(layer, top=top, bottom=bottom, left=left, right=right)), self.shape)

    def on_linear(self, a):
        name = self.name_of(a["weight"], a["bias"])
        layer = self.layer_of(a["self"], (IMAGE, PIXELS))
        outputs, order = a["weight"].shape[0], a["self"].order
        keys = set_if({"outputs": outputs}, True, bias=a["bias"] is not None)
        if order == PIXELS:
            shape = (outputs,) + layer.shape[1:]
            return self.append("fully_connected", [layer], keys | {"each_pixel": True}, name, shape, order)
        if len(a["self"].shape) != 2:
            raise Refused(f"takes {shape_text(a['self'].shape[1:])}; must take a vector of an image, or of a pixel")
        return self.append("fully_connected", [layer], keys, name)

    def on_batch_norm(self, a):
        if None in (a["weight"], a["bias"], a["running_mean"]):
            raise Refused("has no affine parameters or no running statistics; must have both")
        name = self.name_of(a["weight"], a["bias"])
        for key in ("running_mean", "running_var"):
            if not isinstance(a[key], Stored) or a[key].name != f"{name}.{key}":
                raise Refused(f"has a {key} that is not the module's own")
        if not a["training"]:
            raise Refused("normalises by its running statistics while training; must be by the batch's")
        keys = {}
        set_if(keys, 1e-5, epsilon=a["eps"])
        set_if(keys, 0.1, momentum=a["momentum"])
        return self.append("batch_norm", [self.image_of(a["self"])], keys, name)

    def on_group_norm(self, a):
        return self.group_norm(self.image_of(a["self"]), a["num_groups"], a)

    def on_instance_norm(self, a):
        if not a["use_input_stats"] or a["running_mean"] is not None:
            raise Refused("has running statistics; must normalise by the image's own")
        layer = self.image_of(a["self"])
        return self.group_norm(layer, layer.shape[0], a)

    def on_layer_norm(self, a):
        layer, order = self.layer_of(a["self"], (IMAGE, PIXELS)), a["self"].order
        of_vector = len(self.shape) == 2 and layer.shape[1:] == (1, 1)
        if list(a["normalized_shape"]) != list(layer.shape[:1]) or order == IMAGE and not of_vector:
            raise Refused(f"layer_norm of {shape_text(a['normalized_shape'])}; must be of channels, which stand last, "
                          "as behind permute(0, 2, 3, 1)")
        return self.normalisation("layer_norm", layer, {}, a, order)

    def group_norm(self, layer, groups, a):
        return self.normalisation("group_norm", layer, {"groups": groups}, a)

    def normalisation(self, kind, layer, keys, a, order=None):
        if None in (a["weight"], a["bias"]):
            raise Refused("has no affine parameters; must have weight and bias")
        set_if(keys, 1e-5, epsilon=a["eps"])
        return self.append(kind, [layer], keys, self.name_of(a["weight"], a["bias"]), layer.shape, order)

    def activation(self, kind, a, keys=None):
        layer = self.layer_of(a["self"], (IMAGE, PIXELS))
        return self.append(kind, [layer], keys, shape=layer.shape, order=a["self"].order)

    def on_hardtanh(self, a):
        if (a["min_val"], a["max_val"]) != (0, 6):
            raise Refused(f"hardtanh from {a['min_val']} to {a['max_val']}; must be 0 to 6, relu6")
        return self.activation("relu6", a)

    def on_gelu(self, a):
        if a["approximate"] != "none":
            raise Refused(f"gelu approximated by {a['approximate']}; must be the exact one")
        return self.activation("gelu", a)

    def on_elu(self, a):
        if (a["alpha"], a["scale"], a["input_scale"]) != (1, 1, 1):
            raise Refused(f"elu with alpha {a['alpha']} and scale {a['scale']}; must be 1 and 1")
        return self.activation("elu", a)

    def on_leaky_relu(self, a):
        if not 0 < a["negative_slope"] <= 1:
            raise Refused(f"leaky_relu with a slope of {a['negative_slope']}; must be above 0 and at most 1")
        return self.activation("leaky_relu", a, set_if({}, 0.01, slope=a["negative_slope"]))

    def on_dropout(self, a, kind="dropout"):
        if not a["train"] or a["p"] == 0:
            return self.view_of(a["self"])
        if a["p"] >= 1:
            raise Refused("dropout of everything; the rate must be less than 1")
        layer = self.layer_of(a["self"], (IMAGE, PIXELS))
        if math.prod(layer.shape) != math.prod(self.shape[1:]):
            raise Refused(f"drops some of {shape_text(self.shape[1:])} that are {shape_text(layer.shape)} repeated")
        return self.append(kind, [layer], {"rate": a["p"]}, shape=layer.shape, order=a["self"].order)

    def on_feature_dropout(self, a):
        self.image_of(a["self"])
        return self.on_dropout(a, "channel_dropout")

    def on_add(self, a):
        return self.sum(a["self"], a["other"], a["alpha"])

    def on_sub(self, a):
        return self.sum(a["self"], a["other"], -a["alpha"])

    def on_rsub(self, a):
        return self.sum(self.affine(a["self"], -a["alpha"]), a["other"], 1)

    def sum(self, x, other, alpha):
        """x + alpha * other, which may be a number."""
        if isinstance(other, (int, float)):
            return self.affine(x, 1, alpha * other)
        one, two = (self.layer_of(tensor, (IMAGE, PIXELS)) for tensor in (x, other))
        if one.shape != two.shape or x.shape != other.shape:
            raise Refused(f"adds {shape_text(one.shape)} and {shape_text(two.shape)}; must be of one shape")
        self.check_orders(x, other)
        other = self.affine(other, alpha)
        return self.append("add", [one, other.memory.layer], shape=one.shape, order=x.order)

    def check_orders(self, x, other):
        if x.order != other.order:
            raise Refused(f"{self.operation_name()} of dimensions in different orders; must be in one")

    def on_mul(self, a):
        tensors = (a["self"], a["other"])
        for x, other in (tensors, tensors[::-1]):
            if isinstance(other, Noise):
                return self.stochastic_depth(x, other)
            if isinstance(other, Stored) and isinstance(x, Tensor):
                return self.scale(x, other)
        return self.affine(*tensors) if isinstance(a["other"], (int, float)) else self.product(*tensors)

    def on_div(self, a):
        x, other = a["self"], a["other"]
        if isinstance(x, Noise) and not x.scaled and other == x.kept:
            return Noise(self.shape, x.kept, scaled=True)
        if a.get("rounding_mode"):
            raise Refused("divides and rounds; must only divide")
        if not isinstance(other, (int, float)) or other == 0:
            raise Refused("divides by something that is not a number; must be one, and not 0")
        return self.affine(x, 1 / other)

    def on_neg(self, a):
        return self.affine(a["self"], -1)

    def on_square(self, a):
        return self.product(a["self"], a["self"])

    def on_pow(self, a):
        if not is_number(a["exponent"], 2):
            raise Refused(f"pow to {a['exponent']}; must be to 2")
        return self.on_square(a)

    def affine(self, x, factor, offset=0):
        """factor * x + offset, joined with one of which x is the result."""
        layer = self.layer_of(x, (IMAGE, PIXELS))
        if layer.kind == "affine":
            offset += factor * layer.keys.get("offset", 0)
            factor *= layer.keys.get("factor", 1)
            layer = layer.inputs[0]
        if (factor, offset) == (1, 0):
            return Tensor(Memory(layer), self.shape, x.order)
        if not all(abs(number) <= MOST_FACTOR for number in (factor, offset)):
            raise Refused(f"computes {factor:g} x + {offset:g}; numbers must be at most {MOST_FACTOR}")
        if offset == 0 and math.isclose(factor, 1 / 6):
            for source, kind in ((self.in_sixths(layer), "hard_sigmoid"), (self.gated_in_sixths(layer), "hard_swish")):
                if source:
                    return self.append(kind, [source], shape=layer.shape, order=x.order)
        keys = set_if(set_if({}, 1, factor=factor), 0, offset=offset)
        return self.append("affine", [layer], keys, shape=layer.shape, order=x.order)

    def in_sixths(self, layer):
        """What relu6(x + 3) is of, if that is what it is."""
        inner = layer.inputs[0] if layer.kind == "relu6" else None
        return inner.inputs[0] if inner and inner.kind == "affine" and inner.keys == {"offset": 3} else None

    def gated_in_sixths(self, layer):
        """What x * relu6(x + 3) is of, if that is what it is."""
        for x, gate in (layer.inputs, layer.inputs[::-1]) if layer.kind == "multiply" else ():
            if self.in_sixths(gate) is x:
                return x
        return None

    def product(self, x, other):
        one, two = (self.layer_of(tensor, (IMAGE, PIXELS)) for tensor in (x, other))
        self.check_orders(x, other)
        for source, gate in ((one, two), (two, one)):
            gated = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}.get(gate.kind)
            if gated and gate.inputs == [source] and x.shape == other.shape:
                return self.append(gated, [source], shape=source.shape, order=x.order)
        for tensor, factors, inputs in ((x, other, [one, two]), (other, x, [two, one])):
            of_channels = inputs[1].shape == (inputs[0].shape[0], 1, 1)
            if of_channels and self.shape == tensor.shape and len(factors.shape) == len(tensor.shape):
                return self.append("multiply", inputs, shape=inputs[0].shape, order=x.order)
        if one.shape == two.shape and x.shape == other.shape:
            return self.append("multiply", [one, two], shape=one.shape, order=x.order)
        raise Refused(f"multiplies {shape_text(one.shape)} and {shape_text(two.shape)}; must be of one shape, or one "
                      "have one pixel and the channels of the other")

    def scale(self, x, factors):
        """A parameter that has a number for each channel."""
        layer = self.layer_of(x, (IMAGE, PIXELS))
        channels = layer.shape[0]
        if not factors.learnt:
            raise Refused(f"multiplies by {factors.name}, a buffer; must be a parameter")
        wanted = (channels,) + (1,) * (len(x.shape) - 2) if x.order == IMAGE else (channels,)
        seen = factors.seen_as[sum(1 for _ in itertools.takewhile(lambda size: size == 1, factors.seen_as)):]
        if seen != wanted or self.shape != x.shape or len(factors.shape) > MOST_DIMENSIONS:
            raise Refused(f"multiplies {shape_text(x.shape[1:])} by {factors.name} of {shape_text(factors.seen_as)}; "
                          f"must have a number for each channel, {shape_text(wanted)}")
        keys = set_if({}, [channels, 1, 1], shape=list(factors.shape))
        return self.append("scale", [layer], keys, self.checked_name(factors.name), layer.shape, x.order)

    def on_cat(self, a):
        parts = [self.image_of(tensor) for tensor in a["tensors"]]
        if a["dim"] not in (1, 1 - len(self.shape)):
            raise Refused(f"cat along dimension {a['dim']}; must join channels, 1")
        if len(parts) > MOST_INPUTS:
            raise Refused(f"cat of {len(parts)} tensors; must be at most {MOST_INPUTS}")
        return self.copy_of(a["tensors"][0]) if len(parts) == 1 else self.append("concat", parts)

    on_concat = on_concatenate = on_cat

    def slices(self, tensor, dim, sizes, first=0):
        """Neighbouring channels, as many as each of the sizes."""
        layer = self.image_of(tensor)
        if dim not in (1, 1 - len(tensor.shape)):
            raise Refused(f"takes dimension {dim} apart; must be the channels, 1")
        if sizes == [layer.shape[0]]:
            return [tensor]
        if 0 in sizes:
            raise Refused("takes no channels; must take at least 1")
        tensor.memory.taken_apart = True
        first = max(first + layer.shape[0], 0) if first < 0 else first
        parts = []
        for size in sizes:
            part = self.append("slice", [layer], set_if({}, 0, first=first) | {"channels": size},
                               shape=(size,) + layer.shape[1:])
            part.memory.taken_apart = True
            part.shape = (IMAGES, size) + tensor.shape[2:]
            parts.append(part)
            first += size
        return parts

    def on_slice(self, a):
        if a["dim"] == 0 and (a["start"] or (a["end"] or sys.maxsize) < sys.maxsize):
            raise Refused("takes some of the images; must take all, [:]")
        if self.shape == a["self"].shape:
            return self.view_of(a["self"])
        if a["step"] != 1:
            raise Refused(f"slice with the step {a['step']}; must be 1")
        return self.slices(a["self"], a["dim"], [self.shape[a["dim"]]], a["start"] or 0)[0]

    def on_narrow(self, a):
        return self.slices(a["self"], a["dim"], [a["length"]], a["start"])[0]

    def on_split(self, a):
        """Also chunk and split_with_sizes: the results say how large the parts are."""
        dim = a["dim"] % len(a["self"].shape)
        return self.slices(a["self"], dim, [part.shape[dim] for part in self.node.meta["val"]])

    on_chunk = on_split_with_sizes = on_split

    def pool(self, kind, tensor, kernel, stride, padding, ceil_mode, counted=False):
        layer = self.image_of(tensor)
        kernel, padding = pair(kernel), pair(padding)
        stride = pair(stride) if stride else kernel
        keys = {"kernel": brief(kernel)}
        set_if(keys, brief(kernel), stride=brief(stride))
        set_if(keys, 0, padding=brief(padding))
        down = tuple((size + 2 * p - k) // s + 1 for size, k, s, p in zip(layer.shape[1:], kernel, stride, padding))
        set_if(keys, False, ceil_mode=ceil_mode and down != self.shape[2:], count_padding=counted and any(padding))
        return self.append(kind, [layer], keys)

    def on_max_pool2d(self, a):
        if pair(a["dilation"]) != [1, 1]:
            raise Refused(f"max_pool2d with dilation {a['dilation']}; must be 1")
        return self.pool("max_pool", a["self"], a["kernel_size"], a["stride"], a["padding"], a["ceil_mode"])

    def on_avg_pool2d(self, a):
        if a["divisor_override"] is not None:
            raise Refused("avg_pool2d with a divisor of its own; must have none")
        return self.pool("average_pool", a["self"], a["kernel_size"], a["stride"], a["padding"], a["ceil_mode"],
                         a["count_include_pad"])

    def on_adaptive_avg_pool2d(self, a):
        return self.adaptive_pool("average_pool", a["self"])

    def on_adaptive_max_pool2d(self, a):
        self.shape = tuple(self.node.meta["val"][0].shape)
        return [self.adaptive_pool("max_pool", a["self"]), UNKNOWN]  # and the indices

    def adaptive_pool(self, kind, tensor):
        layer, size = self.image_of(tensor), self.shape[2:]
        if size == layer.shape[1:]:
            return self.copy_of(tensor)
        if size == (1, 1) and kind == "average_pool":
            return self.append("global_average_pool", [layer])
        kernel = [before // after for before, after in zip(layer.shape[1:], size)]
        if any(before % after for before, after in zip(layer.shape[1:], size)):
            raise Refused(f"pools {shape_text(layer.shape[1:])} pixels to {shape_text(size)}; these must divide those")
        return self.pool(kind, tensor, kernel, kernel, 0, False)

    def on_mean(self, a):
        tensor, rank, dim = a["self"], len(a["self"].shape), a.get("dim")
        in_pixels = isinstance(tensor, Tensor) and tensor.order == PIXELS
        layer = self.layer_of(tensor, (PIXELS,)) if in_pixels else self.image_of(tensor)
        across = [1, 2] if in_pixels else [2, 3]
        if rank != 4 or dim is None or sorted(d % rank for d in dim) != across:
            over = "all" if dim is None else f"the dimensions {dim}"
            raise Refused(f"mean over {over}; must be over height and width, {across}")
        order = tensor.order if a["keepdim"] else IMAGE
        if layer.shape[1:] == (1, 1):
            return Tensor(Memory(layer), self.shape, order)
        return self.append("global_average_pool", [layer], shape=(layer.shape[0], 1, 1), order=order)

    # Stochastic depth, as torchvision and timm write it: x * empty(images, 1, 1, 1).bernoulli_(p).div_(p).

    def on_empty(self, a):
        if self.shape[:1] != (IMAGES,) or any(size != 1 for size in self.shape[1:]):
            raise Refused(f"random numbers of the shape {shape_text(self.shape)}; must be one for each image")
        return Noise(self.shape)

    on_new_empty = on_empty

    def on_bernoulli(self, a):
        if not isinstance(a["self"], Noise) or a["self"].kept is not None or not isinstance(a.get("p"), float):
            raise Refused("bernoulli is not among a network file's layers")
        return Noise(self.shape, kept=a["p"])

    def stochastic_depth(self, x, noise):
        layer = self.layer_of(x, (IMAGE, PIXELS))
        if len(noise.shape) != len(x.shape) or noise.used:
            raise Refused("drops the same images of two tensors; must have random numbers for each" if noise.used else
                          f"multiplies by random numbers of the shape {shape_text(noise.shape)}; must have as many "
                          "dimensions as what they multiply")
        noise.used = True
        if noise.kept is None or not noise.scaled and noise.kept != 1:
            raise Refused("drops images without dividing the others by the part that is kept; it must")
        if noise.kept == 1:
            return self.copy_of(x)
        rate = round(1 - noise.kept, 12)
        return self.append("stochastic_depth", [layer], {"rate": rate}, shape=layer.shape, order=x.order)

    # Views and copies: what is done to a view in place is done to the tensor, too.

    def view_of(self, tensor):
        self.layer_of(tensor, (tensor.order,) if isinstance(tensor, Tensor) else ())
        return Tensor(tensor.memory, self.shape, tensor.order)

    def copy_of(self, tensor):
        return Tensor(Memory(self.view_of(tensor).memory.layer), self.shape, tensor.order)

    def source(self):
        """The first argument as PyTorch has it, with the strides."""
        return self.node.args[0].meta["val"]

    def on_view(self, a):
        """Of the same numbers in the same order, each image's for itself."""
        tensor = a["self"]
        if isinstance(tensor, Stored):
            return Stored(tensor.name, tensor.shape, tensor.learnt, self.shape)
        if isinstance(tensor, Tensor) and tensor.order in (GROUPS, DEALT):
            return self.joined(tensor)
        c, h, w = self.layer_of(tensor).shape
        if len(self.shape) == 5 and self.shape[0] == tensor.shape[0] and self.shape[3:] == tensor.shape[2:] == (h, w):
            return Tensor(tensor.memory, self.shape, GROUPS)
        allowed = [(c, h, w), (c * h * w,)] + ([(c, 1), (c, 1, 1)] if h * w == 1 else [])
        if "dtype" in a or self.shape[0] != tensor.shape[0] or self.shape[1:] not in allowed:
            raise Refused(f"{self.operation_name()} makes {shape_text(self.shape[1:])} of an image's "
                          f"{shape_text((c, h, w))}; must be a vector of all")
        return self.view_of(tensor)

    on__unsafe_view = on_squeeze = on_unsqueeze = on_view

    def on_reshape(self, a):
        result = self.on_view(a)
        try:
            self.source().view(self.shape)
        except (RuntimeError, ValueError):  # its strides allow no view
            return self.copy_of(result)
        return result

    on_flatten = on_reshape

    def joined(self, tensor):
        """An image of one whose channels are in groups."""
        layer = self.layer_of(tensor, (GROUPS, DEALT))
        if self.shape[1:] != layer.shape:
            raise Refused(f"{self.operation_name()} makes {shape_text(self.shape[1:])} of groups of channels; must be "
                          f"{shape_text(layer.shape)}")
        if tensor.order == GROUPS:
            return Tensor(tensor.memory, self.shape)
        return self.append("channel_shuffle", [layer], {"groups": tensor.shape[2]}, shape=layer.shape)

    def on_channel_shuffle(self, a):
        layer = self.image_of(a["self"])
        return self.append("channel_shuffle", [layer], {"groups": a["groups"]}, shape=layer.shape)

    on_native_channel_shuffle = on_channel_shuffle

    def on_permute(self, a):
        """Between images and pixels, and of channels in groups."""
        tensor = a["self"]
        layer = self.layer_of(tensor, (IMAGE, PIXELS, GROUPS, DEALT))
        dims = [dim % len(tensor.shape) for dim in a["dims"]]
        order = "".join(tensor.order[dim - 1] for dim in dims[1:]) if len(dims) > 3 else ""
        if dims[0] != 0 or order not in (IMAGE, PIXELS, GROUPS, DEALT):
            raise Refused(f"permutes {shape_text(tensor.shape[1:])} to {shape_text(self.shape[1:])}; must put channels "
                          "last or back, or swap groups of channels with what is in them")
        if tensor.order == IMAGE:
            self.image_of(tensor)
        return Tensor(tensor.memory, self.shape, order)

    def on_transpose(self, a):
        dims = list(range(len(a["self"].shape)))
        dims[a["dim0"]], dims[a["dim1"]] = dims[a["dim1"]], dims[a["dim0"]]
        return self.on_permute(a | {"dims": dims})

    def on_expand(self, a):
        """What multiplies channels may have been made as large as the image; on_mul looks at the layer."""
        if self.shape == a["self"].shape:
            return self.view_of(a["self"])
        if self.image_of(a["self"]).shape[1:] != (1, 1) or self.shape[:2] != a["self"].shape[:2]:
            raise Refused(f"expand to {shape_text(self.shape[1:])}; only of one pixel, to multiply by")
        return self.view_of(a["self"])

    on_expand_as = on_expand

    def on_alias(self, a):
        return self.view_of(a["self"])

    def on_contiguous(self, a):
        wanted = a["memory_format"]
        told = {} if isinstance(wanted, int) else {"memory_format": wanted}  # an int is what was left out
        as_it_is = self.source().is_contiguous(**told)
        return self.view_of(a["self"]) if as_it_is else self.copy_of(a["self"])

    def on_clone(self, a):
        return self.copy_of(a["self"])

    def on_to(self, a):
        before, after = self.source(), self.node.meta["val"]
        if before.dtype != after.dtype:
            raise Refused(f"converts {before.dtype} to {after.dtype}; must keep the type")
        as_it_is = before.stride() == after.stride() and not a.get("copy")
        return self.view_of(a["self"]) if as_it_is else self.copy_of(a["self"])

    def on__assert_tensor_metadata(self, a):
        return None

    def on_log_softmax(self, a):
        if len(self.shape) < 2 or a["dim"] not in (1, 1 - len(self.shape)):
            raise Refused(f"softmax along dimension {a['dim']}; must be along the classes, 1")
        memory = Memory(self.layer_of(a["self"]))
        memory.softmax = True
        return Tensor(memory, self.shape)

    on_softmax = on_log_softmax

    def finish(self, outputs):
        outputs = [output for output in outputs if output is not None]
        value = self.values.get(outputs[0]) if len(outputs) == 1 else None
        if value is UNKNOWN:
            return
        if not isinstance(value, Tensor):
            found = "no tensor" if len(outputs) == 1 else f"{len(outputs)} values"
            self.refuse(f"returns {found}; must return one tensor, with a number for each class")
            return
        layer = value.memory.layer
        if value.shape[1:] not in (layer.shape[:1], layer.shape[:1] + (1, 1)) and layer.kind != "input":
            self.refuse(f"returns {shape_text(value.shape[1:])} for an image; must return a number for each class")
        if layer.kind == "input":
            self.refuse("returns the images")
        if layer.kind == "fully_connected":
            del layer.keys["outputs"]  # as many as the data set has classes
        self.output = layer
        self.has_softmax = value.memory.softmax

    def refuse(self, problem):
        self.problems[problem] = problem

    def used_layers(self):
        used, waiting = set(), [self.output]
        while waiting:
            layer = waiting.pop()
            if layer not in used:
                used.add(layer)
                waiting.extend(layer.inputs)
        return [layer for layer in self.layers if layer in used]


def shape_text(shape):
    return "x".join(str(size) for size in shape)


def module_of(node):
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def source_line(node):
    """"nets.py:12", the last line that is not PyTorch's own, or empty."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    import torch

    pytorch = os.path.join(os.path.dirname(torch.__file__), "")
    own = [f"{os.path.relpath(file)}:{line}" for file, line in lines if not file.startswith(pytorch)]
    return own[-1] if own else ""


def describe(layers, name):
    """The network file's object. Layers are named where another one needs that."""
    taken = {layer.name for layer in layers} | {"input"}

    def named(layer):
        if not layer.name:
            kind = layer.kind
            base = layer.place if layer.place.endswith(kind) else f"{layer.place}.{kind}".lstrip(".")
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,60}", base):
                base = kind
            names = [base] + [f"{base}{number}" for number in range(2, len(layers) + 2)]
            layer.name = next(free for free in names if free not in taken)
            taken.add(layer.name)
        return layer.name

    inputs = []
    for index, layer in enumerate(layers):
        if index == 0:
            follows = [source.kind for source in layer.inputs] == ["input"]
        else:
            follows = layer.inputs == [layers[index - 1]]
        inputs.append({} if follows else {"inputs": [named(source) for source in layer.inputs]})
    return {
        "name": name,
        "layers": [{**({"name": layer.name} if layer.name else {}), "type": layer.kind, **source, **layer.keys}
                   for layer, source in zip(layers, inputs)],
    }


def explained(problem):
    """The exception in one line."""
    return ": ".join([type(problem).__name__] + str(problem).strip().splitlines()[:1])


def convert(model, image):
    """(network, names, notes): the network file's object for a torch.nn.Module on images of (channels, height, width),
    the names of its tensors in the model's state_dict, and lines that the user should know. Raises Refused."""
    import torch

    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        if tensor.is_meta or tensor.is_floating_point() and tensor.dtype != torch.float32:
            what = "on no device" if tensor.is_meta else f"of {tensor.dtype}"
            raise Refused(f"{name} is {what}; must be of torch.float32, in memory")
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        program = torch.export.export(model, (torch.zeros(IMAGES, *image),), strict=False)
    except (Exception, SystemExit) as problem:  # PyTorch's many, and the model's own
        raise Refused(f"torch.export cannot follow the model: {explained(problem)}") from problem
    finally:
        for module, training in modes:
            module.training = training
    converter = Converter(program)
    if converter.problems:
        raise Refused("\n".join(converter.problems.values()))
    layers = converter.used_layers()
    for layer in layers:
        if layer.kind in ("batch_norm", "group_norm") and not model.get_parameter(layer.name + ".weight").any():
            layer.keys["gamma"] = 0
        if layer.kind == "scale":
            initial = {float(f"{value:.6g}") for value in model.get_parameter(layer.name).flatten().tolist()}
            set_if(layer.keys, 1, initial=initial.pop() if len(initial) == 1 else 1)
    named = {layer.name for layer in layers if layer.name}
    state = [key for key in model.state_dict() if not key.endswith(".num_batches_tracked")]
    tensors = {key for layer in layers for key in layer.tensors()}
    names = [key for key in state if key in tensors]
    notes = []
    if len(names) < len(state):
        owners = {key: key.rpartition(".")[0] for key in state if key not in tensors}
        unused = sorted({key if owner in named else owner or key for key, owner in owners.items()})
        notes.append(f"left out, as the output does not need them: {', '.join(unused)}")
    if converter.has_softmax:
        notes.append("left out: the softmax at the end, which is part of the loss")
    frozen = sorted({key.rpartition(".")[0] for key, parameter in model.named_parameters()
                     if key in names and not parameter.requires_grad})
    if frozen:
        notes.append(f"will be trained, though they require no gradient here: {', '.join(frozen)}")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", type(model).__name__)[:64]
    return describe(layers, name), names, notes


def file_text(network):
    layers = ",\n".join("    " + json.dumps(layer) for layer in network["layers"])
    return f'{{\n  "name": {json.dumps(network["name"])},\n  "layers": [\n{layers}\n  ]\n}}\n'


def load(place):
    source, colon, expression = place.partition(":")
    if not colon:
        raise Refused(f"{place}: must be a file or module, a colon and what gives the model there, as nets.py:Net()")
    sys.path.insert(0, os.getcwd())
    try:
        if source.endswith(".py"):
            sys.path.insert(0, str(Path(source).resolve().parent))
            spec = importlib.util.spec_from_file_location(Path(source).stem, source)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
        model = eval(expression, vars(module))
    except (Exception, SystemExit) as problem:
        raise Refused(f"{place}: {explained(problem)}") from problem
    import torch

    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise Refused(f"{place} is a class; must be a model, {place}(...)")
    if not isinstance(model, torch.nn.Module):
        raise Refused(f"{place} is a {type(model).__name__}; must be a torch.nn.Module")
    return model


def image_size(text):
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r}; must be channels x height x width, as 3x32x32")
    return tuple(int(size) for size in text.split("x"))


def write(files):
    """All or none, by way of others, so that what is there is whole."""
    for path in files:
        if os.path.exists(path) and not os.path.isfile(path):
            raise Refused(f"{path}: is there and no file; must be a file or nothing")
    files = {os.path.realpath(path): content for path, content in files.items()}
    partial = {path: f"{path}.{os.getpid()}.part" for path in files}
    try:
        for path, content in files.items():
            Path(partial[path]).write_bytes(content)
        for path in files:
            os.replace(partial[path], path)
    except OSError as problem:
        for other in partial.values():
            Path(other).unlink(missing_ok=True)
        raise Refused(f"{problem.filename2 or path}: {problem.strerror}") from problem


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="FILE.py:EXPRESSION or MODULE:EXPRESSION")
    parser.add_argument("--image", type=image_size, required=True, metavar="CxHxW", help="the size of an image")
    parser.add_argument("--to", required=True, metavar="FILE", help="the network file to write")
    parser.add_argument("--weights", metavar="FILE", help="also write the model's weights, as safetensors")
    options = parser.parse_args()
    try:
        import torch
        from safetensors.torch import save
    except ImportError as problem:
        raise Refused(f"{problem.name} is missing: pip install torch safetensors") from problem
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise Refused(f"PyTorch is {torch.__version__}; must be 2.6 or newer: pip install --upgrade torch")
    logging.disable(logging.CRITICAL)  # PyTorch's pages beside the one line
    torch.manual_seed(0)
    model = load(options.model)
    network, names, notes = convert(model, options.image)
    files = {options.to: file_text(network).encode()}
    if options.weights and os.path.realpath(options.weights) == os.path.realpath(options.to):
        raise Refused(f"{options.to}: both --to and --weights; must be two files")
    if options.weights:
        state = model.state_dict()
        tensors = {name: state[name].detach().to("cpu", torch.float32).contiguous().clone() for name in names}
        files[options.weights] = save(tensors)
    write(files)
    for note in notes:
        print(note)
    print(f"{options.to}: {len(network['layers'])} layers" +
          (f"; {options.weights}: {len(names)} tensors" if options.weights else ""))


if __name__ == "__main__":
    try:
        main()
    except Refused as problem:
        for line in str(problem).splitlines():
            print(f"from_pytorch.py: {line}", file=sys.stderr)
        sys.exit(2)

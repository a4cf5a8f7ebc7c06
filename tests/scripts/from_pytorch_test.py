"""scripts/from_pytorch.py: what a converted model computes, untrained and trained, against PyTorch; what is refused.

    python3 from_pytorch_test.py PROGRAM            the program is stpt_starpu
    python3 from_pytorch_test.py --write-golden     writes tests/golden/from_pytorch.json instead

Ends with 77, skipped, where there is no PyTorch, which neither the program nor its other tests need.
"""
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import unittest

try:
    import safetensors.torch
    import torch
    from torch import nn
    import torch.nn.functional as F
except ImportError as missing:
    print(f"skipped: no {missing.name} for {sys.executable}: pip install torch safetensors")
    sys.exit(77)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import from_pytorch  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "from_pytorch.json"
PROGRAM = sys.argv.pop()
# hwloc's plugins leak as they are unloaded, of which a sanitized program would speak.
os.environ.setdefault("HWLOC_PLUGINS_PATH", "/")
TRAINED, TESTED = 40, 20  # images


class Gate(nn.Module):
    """Squeeze-and-excitation as SENet has it, by fully connected layers without a bias."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, 4, bias=False), nn.ReLU(inplace=True),
                                nn.Linear(4, channels, bias=False), nn.Sigmoid())

    def forward(self, x):
        images, channels, _, _ = x.size()
        factors = self.fc(F.adaptive_avg_pool2d(x, 1).view(images, channels))
        return factors.view(images, channels, 1, 1).expand_as(x) * x


class PreActivation(nn.Module):
    """The activation in place also changes what the shortcut adds."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.last.weight)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.bn(x)
        residual = self.last(self.conv(self.act(y)))
        residual += y
        return residual


class PixelMixer(nn.Module):
    """A block of ConvNeXt, of which the last factor is seen as one for each pixel."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-3)
        self.wide = nn.Linear(channels, 2 * channels)
        self.narrow = nn.Linear(2 * channels, channels, bias=False)
        self.inner = nn.Parameter(torch.full((2 * channels,), 0.5))
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y)) * self.inner).permute(0, 3, 1, 2)
        return x + self.gamma * y


def shuffled(x, groups):
    images, channels, height, width = x.shape
    x = x.view(images, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(images, channels, height, width)


def mobile(x):
    """Hard sigmoid and hard swish as many write them."""
    return x * (F.relu6(x + 3.0) / 6), x * F.relu6(x + 3) / 6, F.relu6(x + 3) * (1 / 6)


class Net(nn.Module):
    """Has every kind of layer but those that drop: what they drop differs from PyTorch's."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 5), stride=(1, 2), padding="valid")
        self.images = nn.InstanceNorm2d(8, affine=True)
        self.wide = nn.Conv2d(8, 12, (1, 7), padding=(0, 3), bias=False)
        self.dilated = nn.Conv2d(8, 4, 3, padding="same", dilation=2, groups=4)
        self.even = nn.Conv2d(16, 16, 2, padding="same", groups=2)
        self.padded = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.block = PreActivation(16)
        self.gate = Gate(16)
        self.mixer = PixelMixer(16)
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.groups = nn.GroupNorm(4, 16, eps=1e-3)
        self.hidden = nn.Linear(16 * 4 * 2, 24)
        self.vector = nn.LayerNorm(24)
        self.bn = nn.BatchNorm1d(24)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(24, classes)

    def forward(self, x):
        x = F.leaky_relu(self.images(self.stem(2 * x - 1)), 0.2)
        x = torch.cat([F.gelu(self.wide(x)), F.hardswish(self.dilated(x))], 1)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.gate(self.block(x))
        x = self.padded(F.pad(self.even(x), (0, 0, 1, 1)))
        x = F.max_pool2d(F.pad(x, (2, 0, 0, 0)), 3, 1)
        front, back = x.chunk(2, 1)
        x = torch.cat([F.elu(back), F.mish(front)], 1)
        x = F.avg_pool2d(x, (3, 1), 1, (1, 0))
        x = x * torch.sigmoid(x)
        one, two, three = mobile(x)
        x = (1 - one / 2) * two - 0.3 * three.square() + x
        x = F.channel_shuffle(self.mixer(shuffled(x, 4)), 2)
        x = F.relu6(self.groups(self.depthwise(x)))
        x = (F.adaptive_avg_pool2d(x, (4, 2)) + F.adaptive_max_pool2d(x, (4, 2))).flatten(1)
        x = torch.tanh(F.hardsigmoid(self.bn(self.vector(self.hidden(x)))))
        return F.log_softmax(self.head(x), dim=-1)


class Dropping(nn.Module):
    """Has what is random while training, and returns a vector of one pixel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Conv2d(6, 10, 1)

    def forward(self, x):
        x = F.silu(self.conv(x))
        kept = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.75)
        kept.div_(0.75)
        x = x + F.dropout(x * kept if self.training else x, 0.4, self.training)
        x = F.dropout2d(x, 0.1, self.training)
        return self.head(x).mean((-2, -1))


def write_cifar(folder, generator):
    """Random pixels in CIFAR-10's files: five of training images, one of test images."""
    def rows(count):
        labels = torch.arange(count).remainder(10).to(torch.uint8).unsqueeze(1)
        pixels = torch.randint(0, 256, (count, 3 * 32 * 32), generator=generator, dtype=torch.uint8)
        return torch.cat([labels, pixels], 1)

    train, test = rows(TRAINED), rows(TESTED)
    for index, part in enumerate(train.chunk(5)):
        (folder / f"data_batch_{index + 1}.bin").write_bytes(part.numpy().tobytes())
    (folder / "test_batch.bin").write_bytes(test.numpy().tobytes())
    return train, test


def images_of(rows):
    """As the program normalises nothing: pixels / 255."""
    return rows[:, 1:].reshape(-1, 3, 32, 32) / 255, rows[:, 0].long()


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **options)


class Conversion(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.random = torch.Generator().manual_seed(1)
        torch.manual_seed(1)
        self.train, self.test = (images_of(rows) for rows in write_cifar(self.folder, self.random))

    def convert(self, model, image=(3, 32, 32)):
        network, names, notes = from_pytorch.convert(model, image)
        (self.folder / "net.json").write_text(from_pytorch.file_text(network))
        state = model.state_dict()
        safetensors.torch.save_file({name: state[name].clone() for name in names}, self.folder / "net.safetensors")
        return network, names, notes

    def train_or_test(self, *arguments):
        config = {
            "model": {"network": "net.json", "weights": "net.safetensors"},
            "data": {"format": "cifar10", "path": ".", "hold_out": 0, "normalize": False,
                     "augment": {"crop_padding": 0, "flip": False}},
            "training": {"workers": 1, "batch_per_worker": TRAINED, "epochs": 3,
                         "learning_rate": {"policy": "fixed", "initial": 0.05},
                         "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}},
        }
        (self.folder / "run.json").write_text(json.dumps(config))
        done = run(PROGRAM, "--config", "run.json", *arguments, cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def assert_tests_equal(self, model):
        images, labels = self.test
        with torch.no_grad():
            logits = model.eval()(images)
        expected = F.cross_entropy(logits, labels).item()
        printed = self.train_or_test("--test")
        loss = float(re.search(r"loss ([0-9.e+-]+)", printed)[1])
        # Both compute in float32, in different orders, and six digits are printed.
        self.assertAlmostEqual(loss, expected, delta=2e-5 * max(1, expected), msg=printed)

    def test_logits(self):
        model = Net()
        # Running statistics that are told apart from those that a network begins with.
        model(torch.rand(64, 3, 32, 32, generator=self.random))
        nn.init.normal_(model.block.last.weight, generator=self.random)
        network, names, notes = self.convert(model)
        self.assertEqual(notes, ["left out, as the output does not need them: unused",
                                 "left out: the softmax at the end, which is part of the loss"])
        self.assertNotIn("unused.weight", names)
        self.assertNotIn("outputs", network["layers"][-1])
        self.assert_tests_equal(model)

    def test_training(self):
        model = Net()
        self.convert(model)
        self.train_or_test("--output", "out")
        others = [p for p in model.parameters() if p.ndim == 1] + [model.mixer.gamma]
        decayed = [p for p in model.parameters() if all(p is not other for other in others)]
        optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 0.01}, {"params": others}], 0.05, 0.9)
        records = [json.loads(line) for line in (self.folder / "out" / "metrics.jsonl").read_text().splitlines()]
        losses = [record["train_loss"] for record in records if "train_loss" in record]
        self.assertEqual(len(losses), 3)
        images, labels = self.train
        for epoch, loss in enumerate(losses):
            optimizer.zero_grad()
            expected = F.cross_entropy(model.train()(images), labels)
            expected.backward()
            optimizer.step()
            # Float32 in other orders; what differs is fed back by the steps before.
            self.assertAlmostEqual(loss, expected.item(), delta=1e-4 * expected.item(), msg=f"epoch {epoch}")
        self.assertLess(losses[-1], losses[0])

    def test_export_is_the_models_state(self):
        model = Net()
        _, names, _ = self.convert(model)
        self.train_or_test("--output", "out")
        exported = run(PROGRAM, "--export", "out", "--to", "trained.safetensors", cwd=self.folder)
        self.assertEqual(exported.returncode, 0, exported.stderr)
        state = safetensors.torch.load_file(self.folder / "trained.safetensors")
        loaded = model.load_state_dict(state, strict=False)
        self.assertEqual((loaded.missing_keys, loaded.unexpected_keys), (["unused.weight", "unused.bias"], []))

    def test_changes_in_place_are_of_views_alone(self):
        changed = {
            "cat of one": lambda y: (F.relu_(torch.cat([y], 1)), y),
            "pool to its size": lambda y: (F.relu_(F.adaptive_avg_pool2d(y, 6)), y),
            "copy in another order": lambda y: (F.relu_(y.contiguous(memory_format=torch.channels_last)), y),
            "contiguous already": lambda y: (F.relu_(y.contiguous()), y),
            "made contiguous": lambda y: (
                F.relu_(y.contiguous(memory_format=torch.channels_last).contiguous()), y),
            "vector": lambda y: (F.relu_(y.flatten(1)).view(y.shape), y),
            "vector of another order": lambda y: (
                F.relu_(y.contiguous(memory_format=torch.channels_last).flatten(1)).view(y.shape), y),
            "clone": lambda y: (y.clone().relu_(), y),
            "sum": lambda y: (sum([y]).relu_(), y),
            "all channels": lambda y: (F.relu_(y[:, :]), y),
        }
        images, labels = self.test
        for name, change in changed.items():
            with self.subTest(name):
                model = nn.ModuleDict({"conv": nn.Conv2d(3, 10, 7, stride=5), "last": nn.Conv2d(10, 10, 6)})

                def forward(self, x, change=change):
                    one, other = change(self["conv"](x))
                    return self["last"](one * 1 + other).flatten(1) + other.mean((2, 3))

                model.forward = forward.__get__(model)
                with torch.no_grad():
                    model["conv"].weight.mul_(8)
                self.convert(model)
                self.assert_tests_equal(model)

    def test_gate_of_one_pixel(self):
        """Whose mean is a copy of it."""
        model = nn.ModuleDict({"conv": nn.Conv2d(3, 10, 32)})
        model.forward = (lambda self, x: (lambda y: y * y.mean((2, 3), keepdim=True).sigmoid_())(
            self["conv"](x))).__get__(model)
        self.convert(model)
        images, labels = self.test
        with torch.no_grad():
            expected = F.cross_entropy(model(images).flatten(1), labels).item()
        loss = float(re.search(r"loss ([0-9.e+-]+)", self.train_or_test("--test"))[1])
        self.assertAlmostEqual(loss, expected, delta=2e-5 * max(1, expected))

    def test_images_twice(self):
        model = nn.ModuleDict({"conv": nn.Conv2d(6, 10, 32)})
        model.forward = (lambda self, x: self["conv"](torch.cat([x, x], 1)).flatten(1)).__get__(model)
        self.convert(model)
        self.assert_tests_equal(model)

    def test_random_layers(self):
        model = Dropping()
        network, _, _ = self.convert(model)
        rates = {layer["type"]: layer.get("rate") for layer in network["layers"]}
        self.assertEqual([rates[kind] for kind in ("stochastic_depth", "dropout", "channel_dropout")], [0.25, 0.4, 0.1])
        self.assert_tests_equal(model)
        self.train_or_test("--output", "out")

    def test_network_file(self):
        network, _, _ = self.convert(Net())
        self.assertEqual(network, json.loads(GOLDEN.read_text()))
        gammas = {layer["name"]: layer.get("gamma", 1) for layer in network["layers"] if layer["type"] == "batch_norm"}
        self.assertEqual(gammas, {"block.bn": 1, "block.last": 0, "bn": 1})

    def test_model_is_left_as_it_was(self):
        model = Net().eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.convert(model)
        self.assertFalse(model.training)
        for name, tensor in model.state_dict().items():
            self.assertTrue(torch.equal(tensor, before[name]), name)

    def test_command_line(self):
        (self.folder / "nets.py").write_text(
            "from torch import nn\n"
            "def net(width):\n"
            "    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 10))\n"
            "class Shuffle(nn.Module):\n"
            "    def forward(self, x):\n"
            "        return x.roll(1, 2)\n")
        script = ROOT / "scripts" / "from_pytorch.py"
        command = [sys.executable, script, "nets.py:net(width=4)", "--image", "1x8x8", "--to", "net.json"]
        done = run(*command, "--weights", "net.safetensors", cwd=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "net.json: 3 layers; net.safetensors: 4 tensors\n")
        written = (self.folder / "net.json").read_text()
        self.assertEqual(json.loads(written), {"name": "Sequential", "layers": [
            {"name": "0", "type": "convolution", "filters": 4, "kernel": 3, "bias": True}, {"type": "relu"},
            {"name": "3", "type": "fully_connected"}]})
        for model, message in [
                ("nets.py:Shuffle()", "nets.py:6: roll is not among a network file's layers"),
                ("nets.py:Shuffle", "nets.py:Shuffle is a class; must be a model, nets.py:Shuffle(...)"),
                ("nets.py:net", "nets.py:net is a function; must be a torch.nn.Module"),
                ("nets.py", "nets.py: must be a file or module, a colon and what gives the model there, "
                            "as nets.py:Net()"),
                ("none.py:Net()", "none.py:Net(): FileNotFoundError: [Errno 2] No such file or directory: "
                                  f"'{self.folder.resolve()}/none.py'"),
                ("nets.py:net()", "nets.py:net(): TypeError: net() missing 1 required positional argument: 'width'")]:
            command[2] = model
            done = run(*command, cwd=self.folder)
            self.assertEqual((done.returncode, done.stderr), (2, f"from_pytorch.py: {message}\n"))
            self.assertEqual((self.folder / "net.json").read_text(), written)


class Refusals(unittest.TestCase):
    def assert_refused(self, forward, *messages, **modules):
        model = nn.ModuleDict(modules)
        model.forward = forward.__get__(model)
        with self.assertRaises(from_pytorch.Refused) as refused:
            from_pytorch.convert(model, (3, 8, 8))
        lines = [re.sub(r"^\S+\.py:\d+: ", "", line) for line in str(refused.exception).splitlines()]
        self.assertEqual(lines, list(messages))

    def test_what_no_file_can_say(self):
        conv, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.assert_refused(lambda self, x: x.roll(1, 2).sin(), "roll is not among a network file's layers",
                            "sin is not among a network file's layers")
        self.assert_refused(lambda self, x: self["conv"](x).mean(0),
                            "mean over the dimensions [0]; must be over height and width, [2, 3]", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x) + self["conv"](x),
                            "conv: is used a second time; each layer has weights of its own", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x).reshape(1, -1),
                            "reshape makes 288 of an image's 4x6x6; must be a vector of all", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x) * 2000, "computes 2000 x + 0; numbers must be at most 1000",
                            conv=conv)
        self.assert_refused(lambda self, x: 1 / self["conv"](x), "reciprocal is not among a network file's layers",
                            conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x) / self["other"](x),
                            "divides by something that is not a number; must be one, and not 0", conv=conv, other=other)
        self.assert_refused(lambda self, x: torch.div(x, 2, rounding_mode="floor"),
                            "divides and rounds; must only divide")
        self.assert_refused(lambda self, x: (lambda y: y * torch.sigmoid(y).permute(0, 2, 3, 1))(self["cube"](x)),
                            "mul of dimensions in different orders; must be in one", cube=nn.Conv2d(3, 6, 3))
        self.assert_refused(lambda self, x: F.conv2d(x, self["fc"].weight.view(4, 3, 3, 3)),
                            "has a weight that is not a module's own `weight`", fc=nn.Linear(27, 4))
        self.assert_refused(lambda self, x: x * self["bn"].running_mean.view(-1, 1, 1),
                            "multiplies by bn.running_mean, a buffer; must be a parameter", bn=nn.BatchNorm2d(3))
        self.assert_refused(lambda self, x: self["conv"](x) ** 3, "pow to 3; must be to 2", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x) + self["conv"].bias.view(1, 4, 1, 1),
                            "uses conv.bias elsewhere than as a layer's weight or bias", conv=conv)
        self.assert_refused(lambda self, x: torch.cat([self["conv"](x), self["other"](x)], 2),
                            "cat along dimension 2; must join channels, 1", conv=conv, other=other)
        self.assert_refused(lambda self, x: self["conv"](x) * self["conv"](x)[:, :1],
                            "conv: is used a second time; each layer has weights of its own", conv=conv)
        self.assert_refused(lambda self, x: (lambda y: y * y[:, :1])(self["conv"](x)),
                            "multiplies 4x6x6 and 1x6x6; must be of one shape, or one have one pixel and the channels "
                            "of the other", conv=conv)
        self.assert_refused(lambda self, x: F.relu(F.softmax(self["conv"](x), 1)),
                            "goes on after the softmax, which can only be the last", conv=conv)
        self.assert_refused(lambda self, x: (self["conv"](x), self["other"](x)),
                            "returns 2 values; must return one tensor, with a number for each class",
                            conv=conv, other=other)
        self.assert_refused(lambda self, x: self["conv"](x),
                            "returns 4x6x6 for an image; must return a number for each class", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x)[:, ::2], "slice with the step 2; must be 1", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x).split(2, dim=2)[0],
                            "takes dimension 2 apart; must be the channels, 1", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x)[:, 4:], "takes no channels; must take at least 1",
                            conv=conv)
        self.assert_refused(lambda self, x: F.batch_norm(self["conv"](x), self["a"].running_mean, self["a"].running_var,
                                                         self["b"].weight, self["b"].bias, True),
                            "has a running_mean that is not the module's own", conv=conv, a=nn.BatchNorm2d(4),
                            b=nn.BatchNorm2d(4))
        self.assert_refused(lambda self, x: self["conv"](x)[:1], "takes some of the images; must take all, [:]",
                            conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x).mean(),
                            "mean over all; must be over height and width, [2, 3]", conv=conv)
        self.assert_refused(lambda self, x: F.dropout(self["conv"](x).mean((2, 3), True).expand(-1, -1, 6, 6)),
                            "drops some of 4x6x6 that are 4x1x1 repeated", conv=conv)
        self.assert_refused(lambda self, x: self["conv"](x).mean((2, 3), True).expand(-1, -1, 6, 6),
                            "returns 4x6x6 for an image; must return a number for each class", conv=conv)
        self.assert_refused(lambda self, x: 3,
                            "returns no tensor; must return one tensor, with a number for each class", conv=conv)
        self.assert_refused(lambda self, x: self["bn"](self["bn"](x)),
                            "bn: is used a second time; each layer has weights of its own", bn=nn.BatchNorm2d(3))
        self.assert_refused(lambda self, x: self["input"](x),
                            "input: has the name of the images; the module must have another", input=conv)
        self.assert_refused(lambda self, x: F.adaptive_avg_pool2d(x, 3),
                            "pools 8x8 pixels to 3x3; these must divide those")
        self.assert_refused(lambda self, x: F.pad(x, (1, 1, 1, 1), "reflect"), "pads with reflect; must pad with zeros")
        self.assert_refused(lambda self, x: F.pad(x, (1, 1), value=0.5), "pads with 0.5; must pad with zeros")
        self.assert_refused(lambda self, x: F.pad(x, (0, 0, -1, 0)),
                            "pads by [0, 0, -1, 0]; must pad height and width, by no less than 0")
        self.assert_refused(lambda self, x: F.pad(x, (0, 0, 0, 0, 1, 0)),
                            "pads by [0, 0, 0, 0, 1, 0]; must pad height and width, by no less than 0")
        self.assert_refused(lambda self, x: self["fc"](x),
                            "fc: takes 3x8x8; must take a vector of an image, or of a pixel", fc=nn.Linear(8, 2))
        self.assert_refused(lambda self, x: F.avg_pool2d(x.permute(0, 2, 3, 1), 2),
                            "avg_pool2d takes permuted dimensions; must take them as images x channels x height x "
                            "width")
        self.assert_refused(lambda self, x: x.transpose(2, 3), "permutes 3x8x8 to 3x8x8; must put channels last or "
                            "back, or swap groups of channels with what is in them")
        self.assert_refused(lambda self, x: x + x.view(x.shape[0], 3, 1, 8, 8).transpose(1, 2).permute(1, 0, 2, 3, 4),
                            "permutes 1x3x8x8 to 2x3x8x8; must put channels last or back, or swap groups of channels "
                            "with what is in them")
        self.assert_refused(lambda self, x: x.view(x.shape[0], 3, 1, 8, 8).transpose(1, 2).reshape(2, -1),
                            "reshape makes 192 of groups of channels; must be 3x8x8")
        self.assert_refused(lambda self, x: (lambda y: y + y.permute(0, 2, 3, 1))(self["cube"](x)),
                            "add of dimensions in different orders; must be in one", cube=nn.Conv2d(3, 6, 3))
        self.assert_refused(lambda self, x: x * self["factors"].weight, "multiplies 3x8x8 by factors.weight of 8; must "
                            "have a number for each channel, 3x1x1", factors=nn.LayerNorm(8))
        self.assert_refused(lambda self, x: F.gelu(x, approximate="tanh").flatten(1),
                            "gelu approximated by tanh; must be the exact one")
        self.assert_refused(lambda self, x: self["bn"](x.flatten(1)), "bn: takes 3x8x8 as 192", bn=nn.BatchNorm1d(192))
        self.assert_refused(lambda self, x: self["bn"](x),
                            "bn: has no affine parameters or no running statistics; must have both",
                            bn=nn.BatchNorm2d(3, affine=False))
        self.assert_refused(lambda self, x: self["gn"](x), "gn: has no affine parameters; must have weight and bias",
                            gn=nn.GroupNorm(3, 3, affine=False))
        self.assert_refused(lambda self, x: self["norm"](x),
                            "norm: has running statistics; must normalise by the image's own",
                            norm=nn.InstanceNorm2d(3, affine=True, track_running_stats=True))
        self.assert_refused(lambda self, x: self["ln"](x),
                            "ln: layer_norm of 3x8x8; must be of channels, which stand last, as behind "
                            "permute(0, 2, 3, 1)",
                            ln=nn.LayerNorm((3, 8, 8)))
        self.assert_refused(lambda self, x: self["gn"](x.flatten(1)), "gn: takes 3x8x8 as 192",
                            gn=nn.GroupNorm(2, 192))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if PROGRAM == "--write-golden":
        GOLDEN.write_text(from_pytorch.file_text(from_pytorch.convert(Net(), (3, 32, 32))[0]))
    else:
        unittest.main(verbosity=2)

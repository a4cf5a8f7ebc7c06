#!/usr/bin/env python3
"""Checks and times stpt_starpu on a GPU, against PyTorch where there is one: scripts/bench.sh gpu.

Every part has a limit, and the results are written after each: what hangs or fails costs itself.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
from pathlib import Path
import queue
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# Dense TFLOP/s with float16 and bfloat16, with TF32; GB/s of memory: from NVIDIA's data sheets. The
# first name that a device's contains counts.
PEAKS = [
    ("B200", 2250, 1125, 8000),
    ("GH200 480GB", 989.5, 494.7, 4000),
    ("H200 NVL", 835, 417.5, 4800),
    ("H200", 989.5, 494.7, 4800),
    ("H100 NVL", 835, 417.5, 3900),
    ("H100 PCIe", 756, 378, 2000),
    ("H100", 989.5, 494.7, 3350),
    ("A100-SXM4-80GB", 312, 156, 2039),
    ("A100 80GB PCIe", 312, 156, 1935),
    ("A100", 312, 156, 1555),
    ("L40S", 362, 183, 864),
]


# start.sh of a bundle looks for libraries in the wheels of this Python.
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable}
# One GPU is measured: of each that is visible, StarPU would measure the buses first.
ONE_GPU = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


def peaks_of(device):
    for name, half, tf32, memory in PEAKS:
        if name in device:
            return {"float16": half * 1e12, "bfloat16": half * 1e12, "float32": tf32 * 1e12,
                    "bytes_per_second": memory * 1e9}
    return {"float16": None, "bfloat16": None, "float32": None, "bytes_per_second": None}


def part_of(value, peak):
    return value / peak if peak else None


def spread(values):
    return {"median": statistics.median(values), "minimum": min(values), "maximum": max(values),
            "rounds": len(values)}


def has_compiler():
    """One that Triton, which torch.compile needs, finds."""
    named = os.environ.get("CC")
    return any(shutil.which(name) for name in ([named] if named else ["gcc", "clang"]))


def test_results(output):
    """How many tests Catch2 has run, None where it did not come to its end, and which failed."""
    total = re.search(r"^(?:All tests passed \(.* in|test cases:) +(\d+) ", output, re.MULTILINE)
    # A test's name, and behind it those of its sections, stand between lines before what is wrong.
    headers = re.findall(r"^-{79}\n(.+(?:\n.+)*?)\n-{79}\n.+:\d+\n\.{79}$", output, re.MULTILINE)
    names = [" ".join(itertools.takewhile(lambda line: not line.startswith(" "), header.splitlines()))
             for header in headers]
    return int(total[1]) if total else None, list(dict.fromkeys(names))


class Failed(Exception):
    """A part that does not go on."""


class Limit:
    def __init__(self, seconds):
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def left(self):
        return max(0.0, self.end - time.monotonic())


class Process:
    """A program that prints lines of JSON. It and what it started end with the block. What it has to
    say besides goes to a log."""

    def __init__(self, command, limit, log):
        self.command = command
        self.limit = limit
        self.log = log
        self.errors = tempfile.TemporaryFile("w+")
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=self.errors, text=True, start_new_session=True,
                                            env=ONE_GPU)
        except OSError as error:
            raise Failed(str(error)) from None
        self.lines = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def read(self):
        """The next line that is JSON; None at the end."""
        while True:
            try:
                line = self.lines.get(timeout=self.limit.left())
            except queue.Empty:
                raise Failed(f"no answer within {self.limit.seconds:.0f} s") from None
            if line is None:
                if status := self.process.wait():
                    raise Failed(f"ended with status {status}: {self._last_error()}")
                return None
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(line)

    def write(self, line):
        with contextlib.suppress(BrokenPipeError):  # read() says why
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def round(self, seconds):
        """A round of that many seconds, about. Fails where the model has diverged: such numbers cost
        less power than others."""
        self.write(seconds)
        answer = self.read()
        if answer is None:
            raise Failed("ended too early")
        if any(value is None for value in answer.values()):
            raise Failed(f"the loss is no number: {answer}")
        return answer

    def _errors(self):
        self.errors.seek(0)
        return self.errors.read().strip()

    def _last_error(self):
        lines = self._errors().splitlines()
        return lines[-1] if lines else "no message"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=min(10, self.limit.left()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log(self.command, self._errors())
        self.process.wait()
        self.errors.close()


class Bench:
    def __init__(self, options):
        self.options = options
        self.total = Limit(options.limit)
        self.result = {"quick": options.quick, "checked": False, "checks": [], "rows": [],
                       "operations": [], "failures": []}
        self.save()
        self.log_file().write_text("")

    # ---- What is run --------------------------------------------------------------------------

    def program(self, name):
        if self.options.emulated:
            name = name.replace("_tests", "_emulated_tests") if "_tests" in name else name + "_emulated"
        if self.options.start:
            return [self.options.start, name]
        if name == "stpt_starpu":
            return [str(ROOT / name)]
        return [str(Path(self.options.programs) / name)]

    def ours(self, what, model, batch, data_type, *more):
        command = [*self.program("gpu_bench"), what, model, str(batch), data_type, *map(str, more)]
        if data_type == "float32":
            command.append("--tf32")
        if self.options.side:
            command += ["--side", str(self.options.side)]
        return command

    def pytorch(self, *arguments):
        command = [sys.executable, self.options.pytorch, *map(str, arguments),
                   "--device", self.options.pytorch_device]
        if self.options.side and arguments[0] != "check":
            command += ["--side", str(self.options.side)]
        return command

    # ---- Parts --------------------------------------------------------------------------------

    def save(self):
        partial = Path(self.options.output + ".partial")
        partial.write_text(json.dumps(self.result, indent=1) + "\n")
        partial.replace(self.options.output)

    def attempt(self, name, seconds, work, least=0):
        """work(limit); `least` seconds must be left for it. Returns whether it was done."""
        left = self.total.left()
        start = time.monotonic()
        try:
            if left <= least:
                raise Failed("no time was left for it")
            print(f"{name} ...", file=sys.stderr, flush=True)
            work(Limit(min(seconds, left)))
            return True
        except Failed as failure:
            reason = str(failure)
        finally:
            self.result.setdefault("seconds", {})[name] = round(time.monotonic() - start, 1)
            self.save()
        self.fail(name, reason)
        return False

    def fail(self, part, reason):
        print(f"{part}: {reason}", file=sys.stderr, flush=True)
        self.result["failures"].append({"part": part, "reason": reason})
        self.save()

    def log_file(self):
        return Path(self.options.output + ".log")

    def log(self, command, text):
        """What a program said: the reason for a failure in the results is its last line."""
        if text := text.rstrip():
            with self.log_file().open("a") as log:
                log.write(f"$ {shlex.join(map(str, command))}\n{text}\n\n")

    def process(self, command, limit):
        return Process(command, limit, self.log)

    def output_of(self, command, limit):
        try:
            return subprocess.run(command, check=True, capture_output=True, text=True,
                                  timeout=limit.left(), env=ENVIRONMENT).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            raise Failed(str(error)) from None

    def identify(self, limit):
        with self.process([*self.program("gpu_bench"), "info"], limit) as process:
            device = process.read()
            if device is None:
                raise Failed("no answer")
        with contextlib.suppress(Failed):  # it may be missing, or not see into a container
            driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            device["driver"] = self.output_of(driver, limit).splitlines()[0]
        version = self.output_of([*self.program("stpt_starpu"), "--version"], limit)
        self.result.update(
            program=version, date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            device=device, peaks=peaks_of(device["device"]), pytorch=None)

    def check(self, program, limit):
        """Its tests of GPUs. What failed is recorded by name: one alone shall not hide the rest."""
        late = None
        with tempfile.TemporaryDirectory() as scratch:
            try:
                done = subprocess.run([*self.program(program), "[cuda]"], cwd=ROOT, timeout=limit.left(),
                                      env={**ENVIRONMENT, "STARPU_HOME": scratch},
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            except subprocess.TimeoutExpired as expired:
                done = late = expired
            except OSError as error:
                raise Failed(str(error)) from None
        output = (done.stdout or b"").decode(errors="replace")
        tests, failed = test_results(output)
        self.result["checks"].append({"program": program, "tests": tests, "failed": failed})
        if not late and done.returncode == 0 and tests is not None and not failed:
            return
        self.log([program], output)
        if late:
            raise Failed(f"not done within {limit.seconds:.0f} s")
        print(output[-4000:], file=sys.stderr)
        count = f"{len(failed)} of {tests} tests " if failed and tests is not None else ""
        raise Failed(f"{count}failed, see {self.log_file()}")

    def find_pytorch(self, limit):
        with self.process(self.pytorch("check"), limit) as process:
            self.result["pytorch"] = process.read()

    def operations(self, data_type, limit):
        peaks = self.result["peaks"]
        command = self.ours("ops", self.options.model, self.options.batch, data_type, "--rounds",
                            self.options.rounds)
        with self.process(command, limit) as process:
            while (line := process.read()) is not None:
                rate, traffic = line["flops"] / line["seconds"], line["bytes"] / line["seconds"]
                self.result["operations"].append({
                    **line, "type": data_type, "flops_per_second": rate,
                    "part_of_peak": part_of(rate, peaks[data_type]) if line["flops"] else None,
                    "bytes_per_second": traffic,
                    "part_of_bandwidth": part_of(traffic, peaks["bytes_per_second"])})
                if line["op"] == "copy":
                    peaks["copy_bytes_per_second"] = traffic

    def overhead(self, model, batch, data_type, limit):
        rows = []
        with self.process(self.ours("overhead", model, batch, data_type, "--serve"), limit) as process:
            process.read()
            for _ in range(self.options.rounds):
                rows.append(process.round(2 * self.options.seconds))
        self.result["rows"].append({
            "kind": "overhead", "model": model, "batch": batch, "type": data_type,
            "step": spread([row["step_images_per_second"] for row in rows]),
            "loop": spread([row["loop_images_per_second"] for row in rows]),
            "ratio": spread([row["ratio"] for row in rows])})

    def replicas(self, model, batch, data_type, count, limit):
        several = self.ours("step", model, batch, data_type, "--serve", "--replicas", count,
                            "--workers-per-gpu", count)
        with self.process(self.ours("step", model, batch, data_type, "--serve"), limit) as one, \
                self.process(several, limit) as many:
            one.read()
            many.read()
            rates = [(one.round(self.options.seconds)["images_per_second"],
                      many.round(self.options.seconds)["images_per_second"])
                     for _ in range(self.options.rounds)]
        self.result["rows"].append({
            "kind": "replicas", "model": model, "batch": batch, "type": data_type, "replicas": count,
            "one": spread([one for one, _ in rates]), "all": spread([many for _, many in rates]),
            "ratio": spread([many / one for one, many in rates])})

    def training(self, model, batch, data_type, variant, limit):
        """Ours, and a variant of PyTorch's beside it, in turn; None: ours alone."""
        row = next((row for row in self.result["rows"] if row["kind"] == "training" and
                    (row["model"], row["batch"], row["type"]) == (model, batch, data_type)), None)
        if row is None:
            row = {"kind": "training", "model": model, "batch": batch, "type": data_type,
                   "ours": None, "rates": [], "pytorch": {}, "best": None}
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(self.process(self.ours("step", model, batch, data_type, "--serve"), limit))
            theirs = None
            if variant:  # both start at the same time
                theirs = stack.enter_context(self.process(self.pytorch(model, batch, data_type, variant), limit))
            parameters = ours.read()["parameters"]
            if theirs:
                # It is imported by now. It tries out convolutions while the GPU does nothing else.
                theirs.write("go")
                if (other := theirs.read()["parameters"]) != parameters:
                    raise Failed(f"networks of {parameters} and {other} parameters")
                theirs.round(self.options.seconds)  # it learns how long a step takes
            pairs = []
            for _ in range(self.options.rounds):
                answer = ours.round(self.options.seconds)
                row["flops_per_image"] = answer["flops_per_image"]
                row["rates"].append(answer["images_per_second"])
                if theirs:
                    pairs.append((row["rates"][-1], theirs.round(self.options.seconds)["images_per_second"]))
        row["ours"] = spread(row["rates"])
        row["flops_per_second"] = row["ours"]["median"] * row["flops_per_image"]
        row["part_of_peak"] = part_of(row["flops_per_second"], self.result["peaks"][data_type])
        if pairs:
            row["pytorch"][variant] = {"images_per_second": spread([theirs for _, theirs in pairs]),
                                       "ratio": spread([mine / theirs for mine, theirs in pairs])}
            row["best"] = max(row["pytorch"],
                              key=lambda name: row["pytorch"][name]["images_per_second"]["median"])
        if row not in self.result["rows"]:
            self.result["rows"].append(row)

    # ---- All of it ----------------------------------------------------------------------------

    def run(self):
        options, quick, result = self.options, self.options.quick, self.result
        if not self.attempt("GPU", 60, self.identify):
            return 1
        # models_tests starts StarPU a hundred times, and lets it measure the buses.
        limits = {"codelets_tests": 45 if quick else 90, "runtime_tests": 30 if quick else 60,
                  "data_tests": 15 if quick else 30, "models_tests": 75 if quick else 180,
                  "stpt_tests": 40 if quick else 90}
        checked = [] if options.skip_checks else [
            self.attempt(f"checks: {program}", seconds, lambda limit: self.check(program, limit))
            for program, seconds in limits.items()]
        result["checked"] = bool(checked) and all(checked)
        has_pytorch = self.attempt("PyTorch", 60, self.find_pytorch)
        half = "float16"
        small, small_batch = options.small_model, options.small_batch
        big = (options.model, options.batch)
        eager = "eager" if has_pytorch else None
        compiled = ["default", "max-autotune-no-cudagraphs"] if has_pytorch and not quick else []
        if compiled and not has_compiler():
            self.fail("PyTorch with torch.compile", "Triton needs a C compiler: gcc, clang or what CC names")
            compiled = []
        # What counts most comes first: time may run out.
        self.compare(*big, half, eager)
        for variant in compiled[:1]:
            self.compare(*big, half, variant)
        self.attempt("operations", 40 if quick else 80, lambda limit: self.operations(half, limit))
        self.attempt("StarPU's cost, small", 40, lambda limit: self.overhead(small, small_batch, half, limit))
        self.attempt("replicas", 60, lambda limit: self.replicas(small, small_batch, half, options.replicas, limit))
        if not quick:
            self.attempt("StarPU's cost", 60, lambda limit: self.overhead(*big, half, limit))
        others = [(*big, "bfloat16"), (small, small_batch, half), (*big, "float32")]
        for row in others:
            self.compare(*row, eager)
        for variant in compiled:
            for row in others if variant == compiled[0] else [(*big, half), *others]:
                self.compare(*row, variant)
        print(self.table())
        return 1 if False in checked else 0

    def compare(self, model, batch, data_type, variant):
        """One row of training beside a variant of PyTorch, None: alone."""
        # For small networks launches count more than kernels.
        if model == self.options.small_model and variant == "default":
            variant = "reduce-overhead"
        what = f"{model}, batch {batch}, {data_type}"
        name = what + (f", PyTorch {variant}" if variant else "")
        # A big network has many convolutions to measure. Compiling takes its time with all.
        small = model == self.options.small_model
        seconds = 60 if variant is None or small and variant == "eager" else 120
        done = self.attempt(name, seconds,
                            lambda limit: self.training(model, batch, data_type, variant, limit),
                            least=20 if variant in (None, "eager") else 40)
        if not done and variant == "eager":  # ours in any case
            self.attempt(f"{what} alone", 40,
                         lambda limit: self.training(model, batch, data_type, None, limit))

    # ---- The table ----------------------------------------------------------------------------

    def table(self):
        result, lines = self.result, []

        def percent(value):
            return "" if value is None else f"{100 * value:.0f} %"

        def rate(values):
            return f"{values['median']:.0f} ({values['minimum']:.0f} to {values['maximum']:.0f})"

        def ratio(values):
            return f"{values['median']:.3f} ({values['minimum']:.3f} to {values['maximum']:.3f})"

        def section(title, header, rows):
            rows = [header, *rows]
            if len(rows) == 1:
                return
            lines.extend(["", title])
            widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
            lines.extend("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                         for row in rows)

        device = result["device"]
        lines.append(f"{device['device']}, driver {device.get('driver', device['cuda_driver'])}, "
                     f"CUDA {device['cuda_runtime']}, cuDNN {device['cudnn']}; {result['program']}; "
                     f"PyTorch {result['pytorch']['version'] if result['pytorch'] else 'none'}")
        if not result["checked"]:
            lines.append("NOT CHECKED: the tests of GPUs were skipped or did not pass before this")
        of_kind = lambda kind: [row for row in result["rows"] if row["kind"] == kind]  # noqa: E731
        rows = []
        for row in of_kind("training"):
            best = row["pytorch"].get(row["best"])
            rows.append([row["model"], str(row["batch"]), row["type"], rate(row["ours"]),
                         percent(row["part_of_peak"]),
                         f"{rate(best['images_per_second'])} {row['best']}" if best else "",
                         ratio(best["ratio"]) if best else ""])
        section("Training, images/s: median (minimum to maximum)",
                ["model", "batch", "type", "ours", "of peak", "PyTorch's best", "ours / PyTorch"], rows)
        section("Through StarPU against a plain loop of one CUDA graph, images/s",
                ["model", "batch", "type", "StarPU", "loop", "StarPU's time / loop's"],
                [[row["model"], str(row["batch"]), row["type"], rate(row["step"]), rate(row["loop"]),
                  ratio(row["ratio"])] for row in of_kind("overhead")])
        section("Several replicas on one GPU, images/s of all",
                ["model", "batch", "type", "one", "replicas", "all", "all / one"],
                [[row["model"], str(row["batch"]), row["type"], rate(row["one"]), str(row["replicas"]),
                  rate(row["all"]), ratio(row["ratio"])] for row in of_kind("replicas")])
        sums = {}
        for line in result["operations"]:
            total = sums.setdefault((line["op"], line["type"]), {"seconds": 0, "flops": 0, "bytes": 0})
            for key in total:
                total[key] += line["count"] * line[key]
        rows = []
        for (name, data_type), total in sums.items():
            flops, traffic = total["flops"] / total["seconds"], total["bytes"] / total["seconds"]
            rows.append([name, data_type, f"{1e3 * total['seconds']:.3f}",
                         f"{flops * 1e-12:.1f}" if flops else "",
                         percent(part_of(flops, result["peaks"][data_type])) if flops else "",
                         f"{traffic * 1e-9:.0f}",
                         percent(part_of(traffic, result["peaks"]["bytes_per_second"])),
                         percent(part_of(traffic, result["peaks"].get("copy_bytes_per_second")))])
        section(f"All ops of a kind in one step of {self.options.model}",
                ["op", "type", "ms", "TFLOP/s", "of peak", "GB/s", "of peak", "of copy"], rows)
        section("Failed tests", ["program", "test"],
                [[check["program"], name] for check in result["checks"] for name in check["failed"]])
        if result["failures"]:
            lines.extend(["", "Not done:"])
            lines.extend(f"  {failure['part']}: {failure['reason']}" for failure in result["failures"])
        lines.append(f"\n{self.options.output}, {self.log_file()}")
        return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--programs", help="the folder of the programs")
    where.add_argument("--start", help="a program that starts them by name")
    parser.add_argument("--quick", action="store_true", help="at most three minutes instead of nine")
    parser.add_argument("--output", default="gpu_bench.json")
    parser.add_argument("--limit", type=float, help="seconds for all of it (170 with --quick, else 530)")
    parser.add_argument("--skip-checks", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of a round")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--small-model", default="resnet20")
    parser.add_argument("--small-batch", type=int, default=128)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--side", type=int, help="of all images, instead of the models' usual ones")
    parser.add_argument("--emulated", action="store_true", help="programs for the tests' emulated GPU")
    parser.add_argument("--pytorch", default=str(HERE / "gpu_pytorch.py"), help="what runs PyTorch")
    parser.add_argument("--pytorch-device", default="cuda", choices=["cuda", "cpu"])
    options = parser.parse_args()
    options.limit = options.limit or (170 if options.quick else 530)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.8 if options.quick else 1.5)
    return Bench(options).run()


if __name__ == "__main__":
    sys.exit(main())

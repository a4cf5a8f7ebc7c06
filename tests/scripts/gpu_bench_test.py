"""scripts/bench.sh gpu beside stand-ins: what is run, what is made of it, what hangs or fails.

    python3 gpu_bench_test.py [PROGRAM]    the program is gpu_bench_emulated
"""

import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

EMULATED = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
BENCH = Path(__file__).resolve().parents[1] / "bench" / "gpu_bench.py"

# Both speak as the real ones do. Whether a program fails is up to the environment.
PROGRAM = """\
    import os, sys, time
    name, arguments = sys.argv[1], sys.argv[2:]
    broken = os.environ.get("BROKEN", "")
    if name.endswith("_tests"):
        if name in broken:
            for test in ("the first\\n  a section", "the second"):
                print("-" * 79, test, "-" * 79, "file.cpp:7", "." * 79, "", "file.cpp:8: FAILED:", sep="\\n")
            sys.exit("test cases: 3 | 1 passed | 2 failed")
        print("All tests passed (7 assertions in 3 test cases)")
    elif name == "stpt_starpu":
        print("stpt_starpu 1.2.3")
    elif arguments == ["info"]:
        if name in broken:
            sys.exit("no CUDA device")
        print('{"device": "NVIDIA H200", "cuda_driver": 13000, "cuda_runtime": 13000, "cudnn": 91900}')
    elif arguments[0] == "ops":
        print('{"op": "copy", "shape": "1 MiB", "count": 1, "seconds": 1, "flops": 0, "bytes": 2.4e12}')
        print('{"op": "convolution", "shape": "a", "count": 3, "seconds": 1, "flops": 1e14, "bytes": 1}',
              flush=True)
        print('{"op": "convolution", "shape": "b", "count": 1, "seconds": 3, "flops": 3e14, "bytes": 1}')
    else:
        if "PYTORCH_STARTED" in os.environ:
            end = time.monotonic() + 10
            while not os.path.exists(os.environ["PYTORCH_STARTED"]):
                if time.monotonic() > end:
                    sys.exit("PyTorch was not started beside it")
                time.sleep(0.01)
        print('{"ready": 1, "parameters": 10}', flush=True)
        for line in sys.stdin:
            if arguments[0] == "overhead":
                print('{"step_images_per_second": 96, "loop_images_per_second": 100, "ratio": 1.04}',
                      flush=True)
                continue
            loss = "null" if arguments[0] + arguments[3] in broken else 1
            rate = 500 if "--replicas" in arguments else 200
            print(f'{{"images_per_second": {rate}, "flops_per_image": 1e12, "loss": {loss}}}', flush=True)
    """
PYTORCH = """\
    import os, sys, time
    if sys.argv[1] == "check":
        if "pytorch" in os.environ.get("BROKEN", ""):
            sys.exit("this PyTorch sees no GPU")
        print('{"version": "9.9"}')
        sys.exit()
    variant = sys.argv[4]
    if "PYTORCH_STARTED" in os.environ:
        open(os.environ["PYTORCH_STARTED"], "w").close()
    if sys.stdin.readline() != "go\\n":
        sys.exit("did not wait")
    if variant == "max-autotune-no-cudagraphs":
        time.sleep(1000)
    if "other network" in os.environ.get("BROKEN", ""):
        print('{"ready": 1, "parameters": 11}')
    print("a warning, not JSON")
    print('{"ready": 1, "parameters": 10}', flush=True)
    for line in sys.stdin:
        print(f'{{"images_per_second": {100 if variant == "eager" else 160}, "loss": 1}}', flush=True)
    """


class GpuBench(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.start = self.folder / "start"
        self.start.write_text(f"#!{sys.executable}\n" + textwrap.dedent(PROGRAM))
        self.start.chmod(0o755)
        self.pytorch = self.folder / "pytorch.py"
        self.pytorch.write_text(textwrap.dedent(PYTORCH))
        self.output = self.folder / "result.json"

    def bench(self, *options, broken="", limit=530, **environment):
        self.done = subprocess.run(
            [sys.executable, "-B", str(BENCH), "--start", str(self.start), "--pytorch", str(self.pytorch),
             "--output", str(self.output), "--limit", str(limit), *options],
            capture_output=True, text=True, timeout=100,
            env={**os.environ, "BROKEN": broken, **environment})
        return json.loads(self.output.read_text())

    def row(self, result, kind, **of):
        rows = [row for row in result["rows"]
                if row["kind"] == kind and all(row[key] == value for key, value in of.items())]
        self.assertEqual(len(rows), 1, (kind, of))
        return rows[0]

    def failed(self, result):
        return {failure["part"]: failure["reason"] for failure in result["failures"]}

    def test_all_parts(self):
        result = self.bench("--quick")
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertEqual(result["failures"], [])
        self.assertIs(result["checked"], True)
        self.assertNotIn("NOT CHECKED", self.done.stdout)
        self.assertEqual(result["program"], "stpt_starpu 1.2.3")
        self.assertEqual(result["checks"], [
            {"program": f"{part}_tests", "tests": 3, "failed": []}
            for part in ("codelets", "runtime", "data", "models", "stpt")])
        for data_type, peak in (("float16", 989.5e12), ("bfloat16", 989.5e12), ("float32", 494.7e12)):
            row = self.row(result, "training", model="resnet50", type=data_type)
            self.assertEqual(row["best"], "eager")
            self.assertEqual(row["ours"]["median"], 200)
            self.assertEqual(row["ours"]["rounds"], 3)
            self.assertAlmostEqual(row["part_of_peak"], 200e12 / peak)
            self.assertEqual(row["pytorch"]["eager"]["ratio"]["median"], 2)
        self.assertEqual(self.row(result, "replicas")["ratio"]["median"], 2.5)
        self.assertEqual(self.row(result, "overhead", model="resnet20")["ratio"]["maximum"], 1.04)
        copy, first, _ = result["operations"]
        self.assertAlmostEqual(copy["part_of_bandwidth"], 0.5)
        self.assertAlmostEqual(first["part_of_peak"], 1e14 / 989.5e12)
        # (3 × 1e14 + 3e14) / (3 × 1 s + 3 s)
        self.assertRegex(self.done.stdout, r"convolution +float16 +6000.000 +100.0 +10 %")

    def test_what_hangs_costs_itself(self):
        begin = time.monotonic()
        # Of 52 s parts that need 40 at least get their chance, and the one that hangs takes the rest.
        result = self.bench("--rounds", "1", limit=52)
        self.assertLess(time.monotonic() - begin, 70)
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        row = self.row(result, "training", model="resnet50", type="float16")
        self.assertEqual(sorted(row["pytorch"]), ["default", "eager"])
        self.assertEqual(row["best"], "default")
        self.assertEqual(self.row(result, "training", model="resnet20")["best"], "reduce-overhead")
        failed = self.failed(result)
        self.assertRegex(failed.pop("resnet50, batch 256, float16, PyTorch max-autotune-no-cudagraphs"),
                         r"no answer within \d+ s")
        self.assertEqual(set(failed.values()), {"no time was left for it"})
        self.assertEqual(len(failed), 3)
        # What counts most is measured first, what takes longest last.
        parts = [part.replace("resnet50, batch 256, ", "").replace("resnet20, batch 128, ", "small ")
                 .replace(", PyTorch", "") for part in result["seconds"]]
        self.assertEqual(parts, [
            "GPU", "checks: codelets_tests", "checks: runtime_tests", "checks: data_tests",
            "checks: models_tests", "checks: stpt_tests", "PyTorch", "float16 eager", "float16 default", "operations", "StarPU's cost, small", "replicas",
            "StarPU's cost", "bfloat16 eager", "small float16 eager", "float32 eager",
            "bfloat16 default", "small float16 reduce-overhead", "float32 default",
            "float16 max-autotune-no-cudagraphs", "bfloat16 max-autotune-no-cudagraphs",
            "small float16 max-autotune-no-cudagraphs", "float32 max-autotune-no-cudagraphs"])

    def test_marks_figures_where_a_check_fails(self):
        result = self.bench("--quick", broken="models_tests")
        self.assertEqual(self.done.returncode, 1)
        log = Path(f"{self.output}.log")
        self.assertEqual(self.failed(result), {"checks: models_tests": f"2 of 3 tests failed, see {log}"})
        self.assertEqual([check["failed"] for check in result["checks"]],
                         [[], [], [], ["the first", "the second"], []])
        self.assertRegex(self.done.stdout, r"models_tests +the first\n +models_tests +the second")
        self.assertTrue(log.read_text().startswith("$ models_tests\n"))
        self.assertIs(result["checked"], False)
        self.row(result, "training", model="resnet50", type="float16")
        self.assertIn("1 passed | 2 failed", self.done.stderr)
        self.assertIn("NOT CHECKED", self.done.stdout)

    def test_stops_where_there_is_no_gpu(self):
        result = self.bench("--quick", broken="gpu_bench")
        self.assertEqual(self.done.returncode, 1)
        self.assertIn("no CUDA device", self.failed(result)["GPU"])
        self.assertEqual(list(result["seconds"]), ["GPU"])

    def test_skipped_checks_are_said(self):
        result = self.bench("--quick", "--skip-checks")
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertIs(result["checked"], False)
        self.assertIn("NOT CHECKED", self.done.stdout)

    def test_both_programs_start_before_either_is_ready(self):
        result = self.bench("--quick", "--skip-checks", PYTORCH_STARTED=str(self.folder / "started"))
        self.assertEqual(self.row(result, "training", model="resnet50", type="float16")["best"], "eager")

    def test_without_pytorch(self):
        result = self.bench("--quick", broken="pytorch")
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertIn("this PyTorch sees no GPU", self.failed(result)["PyTorch"])
        self.assertRegex(Path(f"{self.output}.log").read_text(), r"\$ .*check.*\nthis PyTorch sees no GPU\n")
        row = self.row(result, "training", model="resnet50", type="bfloat16")
        self.assertEqual((row["ours"]["median"], row["best"], row["pytorch"]), (200, None, {}))

    def test_without_a_c_compiler(self):
        nothing = self.folder / "nothing"
        nothing.mkdir()
        result = self.bench("--rounds", "1", "--skip-checks", PATH=str(nothing), CC="")
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertEqual(list(self.failed(result)), ["PyTorch with torch.compile"])
        self.assertIn("PyTorch with torch.compile: Triton needs a C compiler", self.done.stdout)
        for row in result["rows"]:
            self.assertEqual(row.get("best", "eager"), "eager")

    def test_diverged_models_do_not_count(self):
        result = self.bench("--quick", broken="stepfloat16")
        self.assertIn("the loss is no number", self.failed(result)["resnet50, batch 256, float16, PyTorch eager"])
        self.assertEqual([row for row in result["rows"]
                          if row["kind"] == "training" and row["type"] == "float16"], [])
        self.row(result, "training", model="resnet50", type="bfloat16")

    def test_networks_must_be_the_same(self):
        result = self.bench("--quick", broken="other network")
        self.assertEqual(self.failed(result)["resnet50, batch 256, float32, PyTorch eager"],
                         "networks of 10 and 11 parameters")


@unittest.skipUnless(EMULATED, "without a gpu_bench_emulated")
class Program(unittest.TestCase):
    """gpu_bench itself, on the tests' emulated GPU."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.process = subprocess.Popen(
            [EMULATED, "step", "resnet20", "2", "float16", "--serve", "--side", "16", "--seconds", "0.1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "STPT_EMULATED_GPUS": "1", "STARPU_HOME": scratch.name})
        self.addCleanup(self.process.communicate)
        self.addCleanup(self.process.kill)
        self.ready = json.loads(self.process.stdout.readline())

    def round(self):
        self.process.stdin.write("0.1\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def seconds(self):
        """Of processors, so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_rests_between_rounds(self):
        for _ in range(2):
            time.sleep(0.1)
            before = self.seconds()
            time.sleep(0.5)
            self.assertLess(self.seconds() - before, 0.1)
            self.assertGreater(self.round()["steps"], 0)
        self.process.stdin.close()
        self.assertEqual(self.process.wait(timeout=60), 0)
        self.process.stdin = None  # communicate() would flush it

    def test_operations_without_the_gradient_of_the_images(self):
        self.assertEqual(self.ready["parameters"], 272474)
        first = 2 * 16 * 27 * 16**2
        other = 2 * (6 * 16 * 16 * 9 * 16**2
                     + (16 * 32 * 9 + 16 * 32 + 5 * 32 * 32 * 9) * 8**2
                     + (32 * 64 * 9 + 32 * 64 + 5 * 64 * 64 * 9) * 4**2
                     + 64 * 10)
        self.assertEqual(self.round()["flops_per_image"], 2 * first + 3 * other)


if __name__ == "__main__":
    unittest.main()

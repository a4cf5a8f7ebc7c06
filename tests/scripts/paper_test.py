"""scripts/paper.sh on a matrix of seconds: killed, started again, and what it writes.

    python3 paper_test.py PROGRAM    the program is stpt_starpu
"""

import fcntl
import json
import os
from pathlib import Path
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = sys.argv.pop()
# hwloc's plugins leak as they are unloaded, of which a sanitized program would speak.
os.environ.setdefault("HWLOC_PLUGINS_PATH", "/")
ARMS = ["mix", "narrow", "reference"]
# About a second a run: long enough to be killed after its first epoch.
SETTINGS = ["model.name=mlp", "data.format=synthetic", "data.limit=0", "data.hold_out=64",
            "data.synthetic.train_images=3264", "data.synthetic.test_images=500",
            "data.synthetic.channels=1", "data.synthetic.height=12", "data.synthetic.width=12",
            "stpt.alpha=5", "training.learning_rate.initial=0.01"]


class Paper(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.output = Path(folder.name) / "out"

    def command(self, *options):
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        return [sys.executable, "-B", str(ROOT / "scripts/paper/matrix.py"), "--program", PROGRAM,
                "--output", str(self.output), *settings, *options]

    def matrix(self, *options):
        return subprocess.run(self.command(*options), capture_output=True, text=True)

    def summary(self, arm, seed):
        return json.loads((self.output / arm / f"seed-{seed}" / "summary.json").read_text())

    def started(self):
        lines = (self.output / "mix/seed-1/metrics.jsonl").read_text().splitlines()
        return json.loads(lines[0])["started"]

    def test_goes_on_where_it_was_killed(self):
        options = ["--seeds", "1", "2", "--arms", *ARMS]
        first = subprocess.Popen(self.command(*options), start_new_session=True,
                                 stdout=subprocess.DEVNULL)
        checkpoint = self.output / "mix/seed-1/checkpoint.bin"
        end = time.monotonic() + 20
        while not checkpoint.exists() and time.monotonic() < end:
            time.sleep(0.005)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        self.assertEqual(self.summary("mix", 1)["status"], "running")
        started = self.started()

        second = self.matrix(*options)
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertEqual(self.started(), started)  # resumed, not begun anew
        self.assertEqual(len(second.stdout.splitlines()), 2 * len(ARMS) + 1)
        self.assertNotIn("(kept)", second.stdout)
        straight = self.output.with_name("straight")
        words = [word for setting in [*SETTINGS, "training.seed=1"] for word in ("--set", setting)]
        subprocess.run([PROGRAM, "--config", str(ROOT / "configs/small/mix.json"), "--output",
                        str(straight), *words], check=True, capture_output=True)
        digest = json.loads((straight / "summary.json").read_text())["model_digest"]
        self.assertEqual(self.summary("mix", 1)["model_digest"], digest)
        self.check_results()

        third = self.matrix(*options)
        self.assertEqual(third.stdout.count("(kept)"), 2 * len(ARMS))
        # Killed behind its last epoch: brought to its end, not trained again.
        summary = self.output / "mix/seed-1/summary.json"
        summary.write_text(summary.read_text().replace('"complete"', '"running"'))
        fourth = self.matrix(*options)
        self.assertEqual(fourth.stdout.count("(kept)"), 2 * len(ARMS) - 1)
        self.assertEqual(self.started(), started)
        self.assertEqual(self.summary("mix", 1)["model_digest"], digest)
        other = self.matrix(*options, "--set", "stpt.alpha=6")
        self.assertEqual(other.returncode, 2)
        self.assertIn("mix/seed-1: was run with other settings; ", other.stderr)

    def check_results(self):
        results = json.loads((self.output / "results.json").read_text())
        rows = {row["arm"]: row for row in results["arms"]}
        self.assertEqual(set(rows), set(ARMS))
        for arm, row in rows.items():
            summaries = [self.summary(arm, seed) for seed in (1, 2)]
            final = [100 * summary["test_top1"] for summary in summaries]
            self.assertEqual(row["final_top1"]["values"], final)
            self.assertAlmostEqual(row["final_top1"]["mean"], sum(final) / 2)
            # Of two values the sample standard deviation is their distance by the root of 2.
            self.assertAlmostEqual(row["final_top1"]["standard_deviation"],
                                   abs(final[0] - final[1]) / 2**0.5)
            self.assertEqual(row["samples"],
                             statistics.fmean(run["samples_total"] for run in summaries))
        # 9 epochs with 8 candidates, 5 iterations, 64 images: 7 of 8 lose.
        self.assertEqual(rows["mix"]["samples_discarded"], 9 * 7 * 5 * 64)
        self.assertEqual(rows["reference"]["samples_discarded"], 0)
        pairs = {(item["first"], item["second"]) for item in results["comparisons"]}
        self.assertEqual(pairs, {("mix", "narrow"), ("mix", "reference")})

        text = (self.output / "results.md").read_text()
        self.assertIn(f"| Mix | 2 of 2 | {rows['mix']['final_top1']['mean']:.2f} ± ", text)
        page = (self.output / "paper.html").read_text()
        self.assertEqual(len(re.findall("<img", page)), 3)  # Figures 7 and 8, and cost
        self.assertEqual(set(re.findall('src="([^,]*),', page)), {"data:image/svg+xml;base64"})
        self.assertIn("No complete run of alpha_8", page)

    def test_what_fails_is_a_result(self):
        rate = "training.learning_rate.initial=1e30"
        result = self.matrix("--seeds", "1", "--arms", "reference", "--set", rate)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("the training loss is not finite", result.stdout)
        row = json.loads((self.output / "results.json").read_text())["arms"][0]
        self.assertIsNone(row["final_top1"]["mean"])
        self.assertIn("not finite", row["failures"]["1"])
        self.assertIn("0 of 1", (self.output / "results.md").read_text())

    def test_what_the_machine_ended_is_none(self):
        arguments = ["--seeds", "1", "--arms", "reference"]
        small_files = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # noqa: E731
        result = subprocess.run(self.command(*arguments), capture_output=True, text=True,
                                preexec_fn=small_files)
        self.assertEqual(result.returncode, 2)
        self.assertIn("checkpoint.bin: cannot write", result.stderr)
        self.assertEqual(self.summary("reference", 1)["status"], "failed")
        result = self.matrix(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn("(kept)", result.stdout)
        self.assertEqual(self.summary("reference", 1)["status"], "complete")

    def test_two_do_not_write_at_once(self):
        self.output.mkdir()
        with open(self.output / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = self.matrix("--arms", "mix")
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr, "^paper.sh: .*/out: a run is going on in it; ")

    def test_bad_input(self):
        for options, message in [
            (["--set", "stpt.alfa=3"], "--set: stpt.alfa: unknown key"),
            (["--page"], "holds no run that has ended"),
            (["paper"], "paper needs --data DIR"),
            (["--arms", "mxi"], "invalid choice: 'mxi'"),
            (["--arms", "mix", "--data", "/none"], "/none: no such folder"),
        ]:
            with self.subTest(options):
                settings = ["--set", "data.format=idx"] if "--data" in options else []
                result = self.matrix(*options, *settings)
                self.assertEqual(result.returncode, 2)
                self.assertIn(message, result.stderr)


if __name__ == "__main__":
    unittest.main()

"""Trains every arm with every seed, each in a run directory of its own: OUTPUT/<arm>/seed-<n>.

An arm is a run file of configs/paper or configs/small, or one with another initial learning rate,
<file>@<rate>. Complete runs are kept, interrupted ones go on from their last checkpoint. A run that
diverged is a result, too; delete its directory to repeat it.
"""

import argparse
import fcntl
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[2]

ARMS = [
    "example", "alpha_8", "alpha_25", "alpha_50", "alpha_100", "narrow", "middle", "wide", "mix",
    "reference", "random_winner", "always_one", "recommended", "fixed_anneal", "cosine",
    *(f"{arm}@{rate}" for rate in ("0.001", "0.01", "1", "10")
      for arm in ("recommended", "fixed_anneal")),
]

# The folder of the run files, and what an experiment sets over all of them.
EXPERIMENTS = {
    "small": ("small", []),
    "cifar10": ("small", ["data.format=cifar10", "data.augment.crop_padding=4"]),
    "paper": ("paper", []),
}


class MatrixError(Exception):
    """One line that says what stopped the matrix, and what would help."""


class Run:
    """One arm with one seed."""

    def __init__(self, options, arm, seed):
        folder, settings = EXPERIMENTS[options.experiment]
        file, _, rate = arm.partition("@")
        overrides = [*settings, f"training.seed={seed}", *options.set]
        if rate:
            overrides.append(f"training.learning_rate.initial={rate}")
        if options.data:
            overrides.append(f"data.path={options.data}")
        self.program = options.program
        self.title = f"{arm}, seed {seed}"
        self.directory = options.output / arm / f"seed-{seed}"
        self.log = self.directory.with_suffix(".log")
        self.new = ["--config", str(ROOT / "configs" / folder / f"{file}.json")]
        for override in overrides:
            self.new += ["--set", override]

    def resolved(self, arguments):
        """The settings as the program understands them, but for those that change no result."""
        result = subprocess.run([self.program, *arguments, "--print-config"], text=True,
                                capture_output=True)
        if result.returncode:
            raise MatrixError(result.stderr.strip())
        return json.loads(result.stdout) | {"runtime": None}

    def check(self):
        """Refuses a run file that is wrong, and a directory that another one was run in."""
        settings = self.resolved(self.new)
        made_with = self.directory / "config.json"
        if made_with.exists() and self.resolved(["--config", str(made_with)]) != settings:
            raise MatrixError(f"{self.directory}: was run with other settings; choose another "
                              "--output, or delete it")

    def summary(self):
        try:
            return json.loads((self.directory / "summary.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"status": "new"}

    def has_result(self):
        """Also where it diverged; but not where the machine or its settings ended it."""
        summary = self.summary()
        failure = summary.get("failure") or ""
        return summary["status"] == "complete" or (
            summary["status"] == "failed" and ("diverged" in failure or "not finite" in failure))

    def train(self, lock):
        """Trains to the end. The program holds the lock, too, so that it is not started twice."""
        if (self.directory / "checkpoint.bin").exists():
            command = [self.program, "--resume", str(self.directory)]
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            command = [self.program, *self.new, "--output", str(self.directory)]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[lock])
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if not self.has_result():
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise MatrixError(f"{self.title}: ended with status {status}: "
                              f"{lines[-1] if lines else 'no message'}; see {self.log}")


def parse_options():
    parser = argparse.ArgumentParser(
        prog="scripts/paper.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains all arms of the paper with all seeds and writes OUTPUT/paper.html, "
        "results.md and\nresults.json. Killed and started again, it goes on where it was.",
        epilog="arms:\n  " + "\n  ".join(ARMS))
    parser.add_argument("experiment", nargs="?", default="small", choices=list(EXPERIMENTS),
                        help="small: Fashion-MNIST (default); cifar10: the same with CIFAR-10; "
                        "paper: ResNet-50, ImageNet")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED",
                        help="default 1 2 3")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, metavar="ARM",
                        help="only these; default all")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="default runs/paper-<experiment>")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="set a key of all run files")
    parser.add_argument("--page", action="store_true", help="train nothing, only write the page")
    parser.add_argument("--program", default=str(ROOT / "stpt_starpu"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.experiment != "small" and not options.data and not options.page:
        parser.error(f"{options.experiment} needs --data DIR, the folder of its data set")
    if options.data:
        options.data = options.data.resolve()  # runs may be resumed from elsewhere
    options.output = options.output or ROOT / "runs" / f"paper-{options.experiment}"
    return options


def train_all(options):
    options.output.mkdir(parents=True, exist_ok=True)
    lock = os.open(options.output / "lock", os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MatrixError(f"{options.output}: a run is going on in it; wait for it or end it")
    # Seed by seed: stopped early, all arms have been run equally often.
    runs = [Run(options, arm, seed) for seed in options.seeds for arm in options.arms]
    for run in runs:
        run.check()
    for number, run in enumerate(runs, 1):
        kept = run.has_result()
        if not kept:
            run.train(lock)
        summary = run.summary()
        result = summary["failure"] or f"{100 * summary['test_top1']:.2f} %"
        note = "kept" if kept else f"{summary['wall_seconds']:.0f} s"
        print(f"[{number}/{len(runs)}] {run.title}: {result} ({note})", flush=True)


def main():
    options = parse_options()
    try:
        import page  # before hours of training, and not for --help
    except ModuleNotFoundError as error:
        print(f"paper.sh: {sys.executable} has no {error.name}; Debian: scripts/setup.sh installs "
              "it, elsewhere set PYTHON to one that has it", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if not options.page:
            train_all(options)
        print(page.write(options.output))
    except (MatrixError, page.PageError) as error:
        print(f"paper.sh: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

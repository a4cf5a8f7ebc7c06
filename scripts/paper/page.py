"""Makes one page of a matrix of runs: tables, and the counterparts of the paper's figures.

All numbers come from the run directories, OUTPUT/<arm>/seed-<n>. Writes OUTPUT/paper.html (needs
nothing beside it), results.md (its tables) and results.json (the same numbers, each seed's too).
"""

import base64
import dataclasses
import html
import io
import json
import math
from pathlib import Path
import statistics

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "paper", "font.family": "sans-serif",
    "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.constrained_layout.use": True,
})
from matplotlib import pyplot, ticker  # noqa: E402 (the backend comes first)

TITLES = {
    "example": "Figure 2's set {3, 1, 0.5}",
    "alpha_8": "α = 8 % of an epoch, Table 2",
    "alpha_25": "α = 25 %, Table 2",
    "alpha_50": "α = 50 %, Table 2",
    "alpha_100": "α = 100 %, Table 2",
    "narrow": "(a) Narrow",
    "middle": "(b) Middle",
    "wide": "(c) Wide",
    "mix": "Mix",
    "reference": "Reference (÷ 10 at a plateau)",
    "random_winner": "Mix, winner drawn at random",
    "always_one": "Mix, candidate 1.0 always wins",
    "recommended": "Our preset: search, anneal",
    "fixed_anneal": "Fixed LR, the same anneal",
    "cosine": "Cosine with warm-up",
}

# Top-1 in percent by the paper's text: the best one for the lengths of Pre-train, the final one for
# the others; Mix and the reference follow from "+1.2" and "+4.8".
PAPER_BEST = {"alpha_8": 63.9, "alpha_25": 62.8, "alpha_50": 62.2, "alpha_100": 62.8}
PAPER_FINAL = {"narrow": 65.0, "middle": 63.4, "wide": 61.4, "mix": 66.2, "reference": 61.4}

# First minus second, by seeds: what is asked, the value, the paper's answer in points.
COMPARISONS = [
    ("alpha_8", "alpha_100", "best", "1.1"),
    ("narrow", "middle", "final", "1.6"),
    ("narrow", "wide", "final", "3.6"),
    ("mix", "narrow", "final", "1.2"),
    ("mix", "reference", "final", "4.8"),
    ("mix", "random_winner", "final", "–"),
    ("mix", "always_one", "final", "–"),
    ("recommended", "mix", "final", "–"),
    ("recommended", "fixed_anneal", "final", "–"),
    ("recommended", "cosine", "final", "–"),
]


class PageError(Exception):
    """One line that says why there is no page."""


@dataclasses.dataclass
class Run:
    arm: str
    seed: int
    summary: dict
    header: dict
    epochs: list

    @property
    def complete(self):
        return self.summary["status"] == "complete"

    @property
    def final(self):
        return 100 * self.summary["test_top1"]

    @property
    def best(self):
        return 100 * self.summary["best_test_top1"]


def title(arm):
    name, _, rate = arm.partition("@")
    return TITLES[name] + (f", from {rate}" if rate else "")


def read(output):
    """{arm: its ended runs by seed}, in the order of TITLES, then by initial learning rate."""
    arms = {}
    for file in sorted(output.glob("*/seed-*/summary.json")):
        summary = json.loads(file.read_text(encoding="utf-8"))
        if summary["status"] not in ("complete", "failed"):
            continue
        lines = (file.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        header, *epochs = (json.loads(line) for line in lines)
        arm = file.parent.parent.name
        seed = int(file.parent.name.removeprefix("seed-"))
        arms.setdefault(arm, []).append(Run(arm, seed, summary, header, epochs))
    if not arms:
        raise PageError(f"{output}: holds no run that has ended; start without --page")
    order = list(TITLES)

    def place(arm):
        name, _, rate = arm.partition("@")
        return (bool(rate), order.index(name), float(rate or 0))

    return {arm: sorted(arms[arm], key=lambda run: run.seed) for arm in sorted(arms, key=place)}


def completed(runs):
    return [run for run in runs if run.complete]


# ---- Tables ---------------------------------------------------------------------------------


def spread(values):
    """Mean and sample standard deviation, in JSON's terms."""
    return {
        "values": values,
        "mean": statistics.fmean(values) if values else None,
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def spread_text(values, digits=2, sign=""):
    if values["mean"] is None:
        return "–"
    text = f"{values['mean']:{sign}.{digits}f}"
    deviation = values["standard_deviation"]
    return text if deviation is None else f"{text} ± {deviation:.{digits}f}"


def row(arm, runs):
    """An arm's numbers. Accuracies are those of complete runs; costs are those of all."""
    complete = completed(runs)

    def mean(key):
        return statistics.fmean(run.summary[key] for run in runs)

    return {
        "arm": arm,
        "title": title(arm),
        "seeds": [run.seed for run in runs],
        "failures": {run.seed: run.summary["failure"] for run in runs if not run.complete},
        "final_top1": spread([run.final for run in complete]),
        "best_top1": spread([run.best for run in complete]),
        "iterations": mean("iterations"),
        "iterations_discarded": mean("iterations_discarded"),
        "samples": mean("samples_total"),
        "samples_discarded": mean("samples_discarded"),
        "seconds": mean("wall_seconds"),
    }


def comparison(arms, first, second, value, paper):
    """Of the seeds that both have completed; None without one."""
    a, b = ({run.seed: getattr(run, value) for run in completed(arms.get(arm, []))}
            for arm in (first, second))
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    return {"first": first, "second": second, "value": value, "paper": paper, "seeds": seeds,
            "difference": spread([a[seed] - b[seed] for seed in seeds])}


def arms_table(rows):
    head = ["arm", "complete", "final top-1, %", "best top-1, %", "the paper, %", "iterations",
            "discarded", "samples, 10³", "of them losers'", "time, s"]
    body = []
    for item in rows:
        paper = PAPER_FINAL.get(item["arm"])
        best = PAPER_BEST.get(item["arm"])
        runs = len(item["seeds"])
        body.append([
            item["title"],
            f"{runs - len(item['failures'])} of {runs}",
            spread_text(item["final_top1"]),
            spread_text(item["best_top1"]),
            f"final {paper}" if paper else f"best {best}" if best else "–",
            f"{item['iterations']:.0f}",
            f"{item['iterations_discarded']:.0f}",
            f"{item['samples'] / 1000:.0f}",
            f"{100 * item['samples_discarded'] / max(item['samples'], 1):.0f} %",
            f"{item['seconds']:.0f}",
        ])
    return head, body


def comparisons_table(comparisons):
    head = ["difference in top-1, points", "of the", "here", "seeds", "the paper"]
    body = [[f"{title(item['first'])} − {title(item['second'])}", item["value"],
             spread_text(item["difference"], sign="+"), str(len(item["seeds"])), item["paper"]]
            for item in comparisons]
    return head, body


def markdown(table):
    head, body = table
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def html_table(table):
    head, body = table

    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return ("<div class=wide><table>" + line(head, "th") +
            "".join(line(cells, "td") for cells in body) + "</table></div>")


# ---- Figures --------------------------------------------------------------------------------


def curves(axes, arms, names, key, scale=1):
    """A thin line for each seed, a thick one for their mean; by epochs."""
    for color, name in enumerate(names):
        runs = completed(arms[name])
        lines = [[scale * epoch[key] for epoch in run.epochs] for run in runs]
        for line in lines:
            axes.plot(range(1, len(line) + 1), line, color=f"C{color}", linewidth=0.6, alpha=0.5)
        # Learning rates move by factors, and so does their mean.
        mean = statistics.geometric_mean if key == "learning_rate" else statistics.fmean
        line = [mean(values) for values in zip(*lines)]
        axes.plot(range(1, len(line) + 1), line, color=f"C{color}", linewidth=2, label=title(name))
    axes.set_xlabel("epoch")
    axes.legend()


def accuracy_figure(axes, arms, names):
    curves(axes, arms, names, "test_top1", 100)
    axes.set_ylabel("test top-1, %")


def rate_figure(axes, arms, names):
    curves(axes, arms, names, "learning_rate")
    axes.set_yscale("log")
    axes.set_ylabel("learning rate at the epoch's end")


def branches_figure(axes, arms, names):
    """Four epochs of one run: the candidates' branches and the line of Main-train."""
    run = completed(arms[names[0]])[0]
    per_epoch = run.header["iterations_per_epoch"]
    factors = {}
    first = next((i for i, epoch in enumerate(run.epochs) if epoch["candidates"]), 0)

    def line(curve):
        return [point["iteration"] / per_epoch for point in curve], \
               [100 * point["top1"] for point in curve]

    last = []  # the point before: where branches begin
    for epoch in run.epochs[first:first + 4]:
        chosen = last
        for candidate in epoch["candidates"]:
            color = factors.setdefault(candidate["factor"], f"C{len(factors)}")
            axes.plot(*line(last + candidate["curve"]), color=color, linewidth=1.2)
            if candidate["winner"]:
                chosen = candidate["curve"][-1:]
        axes.plot(*line(chosen + epoch["curve"]), color="black", linewidth=1.2)
        last = (chosen + epoch["curve"])[-1:]
    for factor, color in factors.items():
        axes.plot([], [], color=color, label=f"Pre-train, LR × {factor:g}")
    axes.plot([], [], color="black", label="Main-train")
    axes.set_xlabel("epochs trained")
    axes.set_ylabel("training top-1, %")
    axes.legend()


def cost_figure(axes, arms, names):
    """An epoch with Pre-train against every candidate's whole epoch."""
    labels, values = ["each candidate a whole epoch"], [1.0]
    run = completed(arms[names[0]])[0]
    epochs = [epoch for epoch in run.epochs if epoch["candidates"]]
    tried = sum(len(epoch["candidates"]) * epoch["iterations"] for epoch in epochs)
    kept = sum(epoch["iterations"] for epoch in epochs)
    lost = sum(epoch["iterations_discarded"] for epoch in epochs)
    labels += ["STPT, one after the other (candidates side by side)", "STPT, losers' added"]
    values += [kept / tried, (kept + lost) / tried]
    bars = axes.barh(labels, [100 * value for value in values], color=["C7", "C0", "C1"])
    axes.bar_label(bars, fmt="%.1f %%", padding=3)
    axes.set_xlim(0, 115)
    axes.invert_yaxis()
    axes.set_xlabel("iterations, %")


def alpha_figure(axes, arms, names):
    for place, name in enumerate(names):
        values = [run.best for run in completed(arms[name])]
        axes.plot([place] * len(values), values, "o", color="C0", alpha=0.5)
        axes.plot([place - 0.2, place + 0.2], [statistics.fmean(values)] * 2, color="C0",
                  linewidth=3)
    axes.set_xticks(range(len(names)), [f"α = {arms[name][0].header['alpha']}" for name in names])
    axes.set_ylabel("best test top-1, %")


def rates_figure(axes, arms, names):
    for color, name in enumerate(names):
        runs = [run for arm in arms if arm.partition("@")[0] == name for run in arms[arm]]
        rates = sorted({run.header["initial_learning_rate"] for run in runs})
        points = [(rate, [run.final if run.complete else math.nan for run in runs
                          if run.header["initial_learning_rate"] == rate]) for rate in rates]
        for rate, values in points:
            axes.plot([rate] * len(values), values, "o", color=f"C{color}", alpha=0.5)
        axes.plot(rates, [statistics.fmean(values) for _, values in points], color=f"C{color}",
                  linewidth=2, label=title(name))
    axes.set_xscale("log")
    axes.set_xlabel("initial learning rate")
    axes.set_ylabel("final test top-1, %")
    axes.legend()


def budget_figure(axes, arms, names):
    for name in names:
        runs = completed(arms[name])
        samples = statistics.fmean(run.summary["samples_total"] for run in runs) / 1000
        final = statistics.fmean(run.final for run in runs)
        axes.plot(samples, final, "o", color="C0")
        axes.annotate(name, (samples, final), xytext=(4, 3), textcoords="offset points",
                      fontsize="small")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(ticker.ScalarFormatter())
    axes.set_xlabel("training samples, losers' included, 10³")
    axes.set_ylabel("final test top-1, %")


ALPHAS = ["alpha_8", "alpha_25", "alpha_50", "alpha_100"]
SETS = ["narrow", "middle", "wide"]
SCHEDULES = ["mix", "narrow", "reference"]

# Title, what it shows, who draws it, the arms it needs.
FIGURES = [
    ("Figure 2: Pre-train's branches and the line of Main-train",
     "The first seed's first epochs with Pre-train, LR set {3, 1, 0.5}; training accuracy.",
     branches_figure, ["example"]),
    ("Figure 3: what choosing costs",
     "Epochs with eight candidates. The paper counts iterations one after the other, with the "
     "candidates side by side on eight workers: 12.5 %. A candidate that pre-trains on the batch "
     "of all workers needs all of them, so the losers' iterations are added in the last bar.",
     cost_figure, ["alpha_8"]),
    ("Figure 4: best accuracy by α", "A dot for each seed, a bar for the mean.", alpha_figure,
     ALPHAS),
    ("Figure 5: accuracy with the three LR sets", "Thin: seeds; thick: their mean.",
     accuracy_figure, SETS),
    ("Figure 6: learning rate with the three LR sets", "Thick: the geometric mean.", rate_figure,
     SETS),
    ("Figure 7: accuracy of Mix, Narrow and the reference", "", accuracy_figure, SCHEDULES),
    ("Figure 8: learning rate of Mix, Narrow and the reference", "", rate_figure, SCHEDULES),
    ("Beyond the paper: robustness to the initial learning rate",
     "A line is broken where a seed's training failed.", rates_figure,
     ["recommended", "fixed_anneal"]),
    ("Beyond the paper: accuracy by cost", "Means over the seeds.", budget_figure, list(TITLES)),
]


def figure(draw, arms, names, text):
    """An <img> with the figure inside, so that the ids of several do not meet."""
    canvas, axes = pyplot.subplots(figsize=(8, 4))
    draw(axes, arms, names)
    svg = io.BytesIO()
    canvas.savefig(svg, metadata={"Date": None})
    pyplot.close(canvas)
    data = base64.b64encode(svg.getvalue()).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/svg+xml;base64,{data}">'


def figures(arms):
    parts = []
    for heading, caption, draw, needed in FIGURES:
        names = [name for name in needed if completed(arms.get(name, []))]
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        # All arms have one cost; the other figures compare what they name.
        if not names or (draw is not budget_figure and names != needed):
            missing = ", ".join(name for name in needed if name not in names)
            parts.append(f"<p>No complete run of {html.escape(missing)}.</p>")
            continue
        parts.append(f"<p>{html.escape(caption)}</p>" if caption else "")
        parts.append(figure(draw, arms, names, heading))
    return "\n".join(parts)


# ---- The page -------------------------------------------------------------------------------

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
img { width: 100%; max-width: 50rem } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 14px }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
"""

NOTE = ("Mean ± sample standard deviation over the seeds whose training completed. Iterations are "
        "those of the model that survives; discarded ones are the losers' and repeated ones'. "
        "Samples are all that were trained on, losers' included. Best: over the epochs, by test "
        "accuracy, so it flatters; the final one does not. Time depends on what else ran.")


def write(output):
    """Writes the three files; returns the page's path. Throws PageError."""
    output = Path(output)
    arms = read(output)
    rows = [row(arm, runs) for arm, runs in arms.items()]
    comparisons = [item for item in (comparison(arms, *pair) for pair in COMPARISONS) if item]
    runs = [run for group in arms.values() for run in group]
    run = runs[0]
    setting = (f"{run.summary['model']} on {run.summary['dataset']}, "
               f"{run.header['training_images']} training images, {run.header['workers']} workers × "
               f"{run.header['batch_per_worker']} images, {run.header['epochs_planned']} epochs of "
               f"{run.header['iterations_per_epoch']} iterations")
    machine = f"{run.summary['device']}; stpt_starpu {run.summary['version']}"
    failures = [f"{title(item['arm'])}, seed {seed}: {text}"
                for item in rows for seed, text in item["failures"].items()]

    (output / "results.json").write_text(json.dumps(
        {"setting": setting, "machine": machine, "arms": rows, "comparisons": comparisons},
        indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / "results.md").write_text(
        f"{setting}.\n\n{machine}.\n\n{markdown(arms_table(rows))}\n"
        f"{markdown(comparisons_table(comparisons))}\n{NOTE}\n" +
        "".join(f"\n- {text}" for text in failures), encoding="utf-8")
    page = output / "paper.html"
    page.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><title>STPT: the paper's experiments"
        f"</title><style>{STYLE}</style><h1>STPT: the paper's experiments</h1>"
        f"<p>{html.escape(setting)}.<br>{html.escape(machine)}.</p>"
        f"{html_table(arms_table(rows))}<p>{html.escape(NOTE)}</p>"
        f"{html_table(comparisons_table(comparisons))}"
        "<p>First minus second, seed by seed.</p>" +
        ("<h2>Failed</h2><ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in failures) +
         "</ul>" if failures else "") + figures(arms) + "</html>\n", encoding="utf-8")
    return page

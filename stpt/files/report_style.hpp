// The style sheet of report.html.
#pragma once

#include <string_view>

namespace stpt::report {

inline constexpr std::string_view kStyle = R"css(
:root {
  color-scheme: light;
  --paper: #ffffff; --panel: #f6f7f8; --ink: #171b20; --soft: #56606b; --hair: #e2e5e9;
  --axis: #9aa4ae; --train: #74808c; --up: #c4570a; --same: #6a7480; --down: #1f6fbf;
  --won: #eef4ec; --won-ink: #1f5c33; --bad: #b3261e; --bad-paper: #fdf1f0;
  --bar: #a9bdd2; --t0: #1f6fbf; --t1: #7fb0df; --t2: #c4570a; --t3: #4a5763; --t4: #a3adb7; --t5: #dfe3e7;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --paper: #14171b; --panel: #1c2026; --ink: #eceff2; --soft: #a0abb6; --hair: #2b3138;
    --axis: #5d6874; --train: #8b97a3; --up: #f0954a; --same: #98a3ae; --down: #69adf0;
    --won: #1e3226; --won-ink: #93d8a8; --bad: #ff8f86; --bad-paper: #3a1f1e;
    --bar: #4d6883; --t0: #4c94dc; --t1: #2f5a86; --t2: #f0954a; --t3: #a9b4bf; --t4: #6a7682; --t5: #363d45;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 -apple-system, "Segoe UI", Inter, Roboto, "Noto Sans", "Helvetica Neue", "Liberation Sans", system-ui, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1040px; margin: 0 auto; padding: 44px 32px 64px; }
.eyebrow { margin: 0; color: var(--soft); font-size: 13px; }
h1 { margin: 2px 0 6px; font-size: 34px; line-height: 1.15; font-weight: 650; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 19px; font-weight: 650; letter-spacing: -.01em; }
h3 { margin: 0 0 2px; font-size: 15px; font-weight: 600; }
p { margin: 0 0 10px; max-width: 72ch; }
.subject { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
.subject b { color: var(--ink); font-weight: 600; }
.status { font-size: 13px; font-weight: 600; vertical-align: 5px; margin-left: 10px; padding: 2px 9px; border-radius: 99px; letter-spacing: 0; white-space: nowrap; background: var(--panel); color: var(--soft); }
.status.complete { background: var(--won); color: var(--won-ink); }
.status.failed { background: var(--bad-paper); color: var(--bad); }
.failure { margin: 22px 0 0; padding: 12px 16px; border-left: 4px solid var(--bad); background: var(--bad-paper); max-width: none; overflow-wrap: anywhere; }
.failure b { color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(5, auto); gap: 18px 30px; margin: 28px 0 0; padding: 20px 0 18px; border-top: 1px solid var(--hair); border-bottom: 1px solid var(--hair); }
.figures div { min-width: 0; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 0; font-size: 25px; line-height: 1.25; font-weight: 600; letter-spacing: -.015em; white-space: nowrap; }
.figures small { display: block; color: var(--soft); font-size: 13px; font-weight: 400; letter-spacing: 0; line-height: 1.4; white-space: normal; }
section { margin-top: 44px; }
.lead { color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 4px; padding: 0; list-style: none; font-size: 13px; color: var(--soft); }
.legend li { white-space: nowrap; }
.legend svg { width: 22px; height: 12px; margin-right: 6px; vertical-align: -1px; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg svg { display: inline; }
svg.narrow { display: none; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 28px 40px; }
.axis { stroke: var(--axis); stroke-width: 1; }
.grid { stroke: var(--hair); stroke-width: 1; }
.divide { stroke: var(--axis); stroke-width: 1; stroke-dasharray: 1 3; }
.tick { fill: var(--soft); font-size: 12px; }
.mid { text-anchor: middle; }
.end { text-anchor: end; }
.label { fill: var(--soft); font-size: 12.5px; }
.strong { fill: var(--ink); font-size: 15px; font-weight: 650; }
.train-label { fill: var(--soft); font-size: 15px; font-weight: 600; }
path { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.train { stroke: var(--train); stroke-width: 1.8; }
.train.dense { stroke-width: 1.1; }
.branch { stroke-width: 1.1; stroke-opacity: .62; }
.branch.won { stroke-width: 2.8; stroke-opacity: 1; }
.dense .branch { stroke-width: .8; stroke-opacity: .4; }
.dense .branch.won { stroke-width: 1.4; stroke-opacity: 1; }
.up { stroke: var(--up); } .same { stroke: var(--same); } .down { stroke: var(--down); }
.test { fill: var(--ink); stroke: var(--paper); stroke-width: 1; }
.below { fill: var(--ink); }
.halo { stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
.test-line { stroke: var(--ink); stroke-width: 1; stroke-opacity: .28; }
.rate { stroke: var(--ink); stroke-width: 1.6; }
.tried { fill: var(--paper); fill-opacity: .6; stroke-width: 1; stroke-opacity: .55; }
.chosen { stroke: var(--paper); stroke-width: 1; }
.chosen.up { fill: var(--up); } .chosen.same { fill: var(--same); } .chosen.down { fill: var(--down); }
.diverged-mark { stroke: var(--bad); stroke-width: 1.3; }
.bar { fill: var(--bar); }
.tip { fill: var(--ink); fill-opacity: 0; }
.tip:hover { fill-opacity: .05; }
.cost { display: grid; grid-template-columns: max-content 1fr; gap: 6px 16px; align-items: center; margin: 14px 0 4px; font-size: 14px; }
.cost .track { display: flex; height: 26px; }
.cost .track span { display: block; min-width: 1px; }
.kept { background: var(--t3); } .lost { background: var(--t2); } .all { background: var(--t5); }
.strip { display: flex; height: 26px; margin: 14px 0 6px; }
.strip span { display: block; min-width: 1px; }
.strip span + span, .cost .track span + span { border-left: 1px solid var(--paper); }
.t0 { background: var(--t0); } .t1 { background: var(--t1); } .t2 { background: var(--t2); }
.t3 { background: var(--t3); } .t4 { background: var(--t4); } .t5 { background: var(--t5); }
.swatch { display: inline-block; width: 11px; height: 11px; margin-right: 8px; border-radius: 2px; }
.scroll { overflow-x: auto; margin-top: 10px; }
.scroll.long { max-height: 640px; overflow-y: auto; border-bottom: 1px solid var(--hair); }
table { border-collapse: collapse; font-size: 13.5px; line-height: 1.35; }
table.wide-table, table.choices { width: 100%; }
th, td { padding: 6px 9px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--hair); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; background: var(--paper); border-bottom-color: var(--axis); }
.long thead th { position: sticky; top: 0; z-index: 2; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--paper); z-index: 1; }
th:first-child, td:first-child { padding-left: 2px; }
.words { text-align: left; white-space: normal; min-width: 9em; color: var(--soft); }
.name { text-align: left; }
th.candidates, td.candidates { text-align: left; white-space: normal; width: 60%; }
td.candidates { padding: 3px 0; }
span.candidate { display: inline-block; min-width: 58px; padding: 3px 6px; text-align: right; vertical-align: top; line-height: 1.3; white-space: nowrap; }
.candidate small { display: block; color: var(--soft); font-size: 12px; }
.candidate.won { background: var(--won); font-weight: 650; }
.candidate.won, .candidate.won small { color: var(--won-ink); }
.candidate.diverged { color: var(--bad); font-size: 12px; }
.quiet { color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px 30px; margin: 10px 0 0; font-size: 14px; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.facts .whole { grid-column: 1 / -1; }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
@media (max-width: 720px) {
  main { padding: 26px 16px 44px; }
  h1 { font-size: 27px; }
  .status { vertical-align: 4px; }
  section { margin-top: 36px; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures dd { font-size: 22px; }
  /* The candidates on lines of their own, below the rest of their row. */
  .choices, .choices thead, .choices tbody { display: block; }
  .choices tr { display: grid; grid-template-columns: 44px 74px 68px 68px 1fr; border-bottom: 1px solid var(--hair); }
  .choices th, .choices td { border-bottom: 0; padding-left: 4px; padding-right: 4px; }
  .long .choices thead { position: sticky; top: 0; z-index: 2; }
  .choices .candidates { grid-column: 1 / -1; width: auto; }
  .choices .words { min-width: 0; }
  .choices td[colspan] { grid-column: 2 / -1; }
  .split td.name, .cost-table th { white-space: normal; }
  .cost-table th, .cost-table td { padding: 6px 5px; }
  .pair, .facts { grid-template-columns: 1fr; }
  .cost { grid-template-columns: 1fr; gap: 2px; }
  .cost .track { margin-bottom: 8px; }
  svg.narrow { display: block; }
  svg.wide { display: none !important; }
}
@media print {
  @page { margin: 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  figure, .figures, .cost, .strip, tr, .facts { break-inside: avoid; }
  h2, h3, .lead, .legend { break-after: avoid; }
  .scroll, .scroll.long { overflow: visible; max-height: none; }
  table { font-size: 8.5pt; }
  th, td { padding: 3px 5px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
)css";

}  // namespace stpt::report

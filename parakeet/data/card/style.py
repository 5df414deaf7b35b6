"""The data card's style sheet: one column, light and dark, for a screen, a phone and paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf6; --sheet: #ffffff; --ink: #23282b; --soft: #626b6e; --line: #e3e1d8; --wash: #f2f0e8;
  --accent: #2f7a54; --accent-wash: #e6f1ea; --warn: #8a5a00; --warn-wash: #fdf1d8; --bad: #a03325; --mark: #fbe3b0;
  --c0: #2f7a54; --c1: #d09a3a; --c2: #4a72a8; --c3: #b5604a; --c4: #7d659e; --c5: #3b959a; --c6: #b46c93;
  --c7: #8a9440; --rest: #b4b5ae;
  --sans: Inter, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, system-ui, sans-serif;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Georgia, "Liberation Serif", serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15191a; --sheet: #1c2122; --ink: #e4e3dd; --soft: #9ba3a3; --line: #30373a; --wash: #20272a;
    --accent: #7cc49c; --accent-wash: #1d2f27; --warn: #e9c47c; --warn-wash: #33290f; --bad: #ec9585; --mark: #5b4716;
    --c0: #63b389; --c1: #ddb263; --c2: #86a9d8; --c3: #d98f7a; --c4: #ae97cf; --c5: #6fc0c4; --c6: #d59bbb;
    --c7: #b7c06c; --rest: #5c6263;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 400 1rem/1.6 var(--sans);
  font-variant-numeric: tabular-nums; }
main { max-width: 62rem; margin: 0 auto; padding: clamp(1.25rem, 5vw, 4rem) clamp(1rem, 4vw, 2.5rem) 4rem; }
h1, h2, h3 { font-family: var(--serif); font-weight: 600; line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(2.2rem, 7vw, 3.4rem); margin: 0; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.6rem; margin: 0 0 .35rem; letter-spacing: -.01em; }
h3 { font-size: 1.15rem; margin: 0; }
p { margin: 0 0 1rem; max-width: 44rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: .2em; }
section { margin-top: 4rem; scroll-margin-top: 1rem; }
.eyebrow { color: var(--accent); font-size: .78rem; font-weight: 600; letter-spacing: .12em; text-transform: uppercase;
  margin: 0 0 .5rem; }
.lead { font: 400 1.2rem/1.5 var(--serif); color: var(--soft); margin: .75rem 0 0; }
.note, figcaption, .facts { color: var(--soft); font-size: .92rem; }
nav { margin-top: 2rem; font-size: .92rem; display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: 1px; margin: 2.25rem 0 1.5rem;
  background: var(--line); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.tiles div { background: var(--sheet); padding: .9rem 1.1rem 1rem; display: flex; flex-direction: column-reverse;
  justify-content: flex-end; }
.tiles dt { color: var(--soft); font-size: .82rem; }
.tiles dd { margin: 0; font: 600 1.35rem/1.3 var(--serif); letter-spacing: -.01em; }
.notice { border-left: 3px solid var(--accent); background: var(--accent-wash); border-radius: 0 8px 8px 0;
  padding: .7rem 1rem; margin: 0 0 .75rem; max-width: none; font-size: .95rem; }
.notice ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.warn { border-color: var(--warn); background: var(--warn-wash); }
.warn b { color: var(--warn); }
.bad { border-color: var(--bad); }
.bad b { color: var(--bad); }
.scroll { overflow-x: auto; margin: 1.25rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { color: var(--soft); font-size: .8rem; font-weight: 500; line-height: 1.3; vertical-align: bottom; }
th, td { padding: .5rem .75rem .5rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
td a { text-decoration: none; }
td a:hover { text-decoration: underline; }
td .bar { margin-top: .5rem; }
tr.total td { font-weight: 600; border-bottom: 0; }
.n { text-align: right; white-space: nowrap; }
.keep { white-space: nowrap; }
.zero { color: var(--soft); opacity: .55; }
.dot { display: inline-block; width: .62rem; height: .62rem; border-radius: 2px; margin-right: .5rem; }
.pill { font: 400 .8rem/1.6 var(--sans); border: 1px solid var(--line); border-radius: 99px; padding: .1rem .65rem;
  color: var(--soft); white-space: nowrap; }
.pill.warn { background: var(--warn-wash); color: var(--warn); border-color: transparent; }
svg { display: block; width: 100%; }
svg text { font: 400 11px var(--sans); fill: var(--soft); }
.strip { height: 1.6rem; border-radius: 5px; overflow: hidden; margin: .3rem 0 1rem; }
.strip-name { color: var(--soft); font-size: .82rem; margin: 1rem 0 0; }
.bar { height: .55rem; border-radius: 2px; background: var(--wash); min-width: 5rem; }
.bar rect { fill: var(--accent); }
.ground { fill: var(--wash); } .rule { stroke: var(--line); stroke-width: 1; }
.area { fill: var(--accent); opacity: .14; } .stroke { fill: none; stroke: var(--accent); stroke-width: 2; }
.k0 { fill: var(--c0); background: var(--c0); } .k1 { fill: var(--c1); background: var(--c1); }
.k2 { fill: var(--c2); background: var(--c2); } .k3 { fill: var(--c3); background: var(--c3); }
.k4 { fill: var(--c4); background: var(--c4); } .k5 { fill: var(--c5); background: var(--c5); }
.k6 { fill: var(--c6); background: var(--c6); } .k7 { fill: var(--c7); background: var(--c7); }
.rest { fill: var(--rest); background: var(--rest); }
.funnel { list-style: none; margin: 1.5rem 0; padding: 0; }
.funnel li { display: grid; grid-template-columns: 8.5rem 1fr 7rem; gap: .25rem 1rem; align-items: center; }
.funnel .bar { height: 1.5rem; border-radius: 4px; }
.funnel .n { font-weight: 600; }
.funnel .lost { grid-template-columns: 8.5rem 1fr; color: var(--soft); font-size: .88rem; padding: .45rem 0 .7rem; }
.funnel .lost p { grid-column: 2; margin: 0; }
.funnel .lost p::before { content: "−  "; }
.funnel .split { margin-top: .8rem; }
.half { opacity: .45; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr)); gap: 1.75rem 1.75rem;
  margin-top: 1.5rem; }
figure { margin: 0; break-inside: avoid; }
figcaption b { color: var(--ink); font-weight: 600; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 1.25rem 2.5rem;
  align-items: start; margin: 1.25rem 0; }
.compare { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 1.25rem; break-inside: avoid; }
.compare .pair { margin: .5rem 0 0; }
.label { color: var(--soft); font-size: .78rem; font-weight: 600; letter-spacing: .05em; margin: 0 0 .15rem; }
.text { font: 400 .98rem/1.55 var(--serif); white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; max-width: none;
  unicode-bidi: isolate; }
mark { background: var(--mark); color: inherit; border-radius: 2px; }
.chips { display: flex; flex-wrap: wrap; gap: .4rem; margin: .75rem 0 1.5rem; padding: 0; list-style: none; }
.chips li { font: 400 .85rem/1.3 var(--mono); background: var(--wash); border-radius: 5px; padding: .25rem .5rem;
  unicode-bidi: isolate; overflow-wrap: anywhere; }
.chips small { font: 400 .75rem var(--sans); color: var(--soft); margin-left: .35rem; }
td .chips { margin: 0; min-width: 14rem; gap: .3rem; }
.chips .control { background: var(--accent-wash); color: var(--accent); }
.source { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2rem; scroll-margin-top: 1rem; }
.source header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .4rem .8rem; }
.source .dot { margin-right: -.2rem; }
.example { background: var(--sheet); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem;
  break-inside: avoid; display: flex; flex-direction: column; }
.examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: .9rem;
  margin-top: .9rem; }
.example .text { font-size: .92rem; line-height: 1.5; }
.example .id { margin: auto 0 0; padding-top: .8rem; }
.example .note { margin: .5rem 0 0; }
.turn + .turn { margin-top: .8rem; }
.turn.Assistant { border-left: 2px solid var(--accent); padding-left: .9rem; }
.turn.Assistant .label { color: var(--accent); }
.id { font: 400 .72rem var(--mono); color: var(--soft); overflow-wrap: anywhere; }
code, .hash { font: 400 .82rem var(--mono); overflow-wrap: anywhere; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); font-size: .95rem; }
footer { margin-top: 4rem; border-top: 1px solid var(--line); padding-top: 1rem; color: var(--soft);
  font-size: .88rem; }
@media (max-width: 56rem) { .tiles { grid-template-columns: repeat(3, 1fr); } }
@media (max-width: 34rem) {
  section { margin-top: 3rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .multiples { grid-template-columns: 1fr 1fr; gap: 1.5rem 1rem; }
  .multiples svg text { font-size: 15px; }
  .bar { min-width: 2.5rem; }
  .funnel li { grid-template-columns: 1fr auto; }
  .funnel .bar { grid-column: 1 / -1; grid-row: 2; height: 1rem; }
  .funnel .lost { grid-template-columns: 1fr; }
  .funnel .lost p { grid-column: 1; }
}
@media print {
  @page { margin: 16mm 14mm; }
  html { font-size: 9.5pt; }
  body { background: none; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  section { margin-top: 2rem; }
  h2, h3, .source header, .note, .label, .facts { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""

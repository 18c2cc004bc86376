"""The style sheet of the results page: light, one column, readable on a phone and on paper."""

from __future__ import annotations

STYLE = """
:root { --ink: #1f2328; --muted: #59636e; --line: #d8dce1; --soft: #f5f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 17px/1.6 system-ui, -apple-system, "Segoe UI",
  "Helvetica Neue", Arial, "Liberation Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1100px; margin: 0 auto; padding: 3rem 1.5rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.015em; text-wrap: balance; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; line-height: 1.3; letter-spacing: -0.01em; margin: 3.25rem 0 .5rem; }
h3 { font-size: 1.1rem; line-height: 1.3; margin: 2.25rem 0 .5rem; }
h4 { font-size: 1rem; line-height: 1.3; margin: 1.75rem 0 .25rem; }
p { max-width: 44rem; margin: .5rem 0 1rem; }
.meta, figcaption, .note { color: var(--muted); font-size: .9rem; line-height: 1.5; }
.lead { font-size: 1.1rem; }
figure { margin: 1.5rem 0 0; }
figcaption { max-width: 52rem; margin-top: .5rem; }
.plot { width: 100%; min-height: 12rem; }
.plot svg { display: block; max-width: 100%; height: auto; }
.plot.wide { overflow-x: auto; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--muted); }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--ink); }
th:first-child, td:first-child, .results th:first-child { text-align: left; padding-left: 0; }
tbody th { color: var(--ink); }
tr.family td, tr.family th { border-top: 2px solid #9aa3ad; }
td small { display: block; color: var(--muted); font-size: .92em; }
.results table { font-size: .82rem; }
.results th, .results td { padding: .45rem .5rem; vertical-align: baseline; }
.results tbody th { position: sticky; left: 0; background: #fff; padding: .45rem .75rem .45rem 0; }
.claims { list-style: none; margin: 1.25rem 0 0; padding: 0; border-top: 1px solid var(--line); }
.claims li { display: grid; grid-template-columns: 9.5rem 1fr; gap: .25rem 1.25rem; padding: .9rem 0;
  border-bottom: 1px solid var(--line); }
.claims p { margin: 0; max-width: none; }
.claims .evidence { grid-column: 2; color: var(--muted); font-size: .95rem; }
.verdict { justify-self: start; align-self: start; font-size: .85rem; font-weight: 600; white-space: nowrap;
  border-radius: 1rem; padding: .15rem .7rem; background: var(--soft); color: var(--muted); }
.verdict.supported { background: #e1f3ea; color: #0b6b43; }
.verdict.contradicted { background: #fbe6dc; color: #9c3a06; }
.accuracy { max-width: 46rem; }
.card { margin: .25rem 0 1rem; }
.card table { table-layout: fixed; }
.card th, .card td { padding: .35rem .75rem; }
.card th:first-child { width: 39%; white-space: normal; padding-left: 0; }
.card th:nth-child(2) { width: 29%; }
.card th:nth-child(3) { width: 9%; }
.card small { display: inline-block; margin-left: .4rem; min-width: 5.6rem; }
.bar { position: relative; height: .6rem; min-width: 6rem; background: var(--soft); border-radius: .3rem; }
.bar i { position: absolute; top: 0; bottom: 0; background: #9fc8e2; border-radius: .3rem; }
.bar b { position: absolute; top: -.15rem; bottom: -.15rem; width: .2rem; margin-left: -.1rem;
  background: var(--accent); }
.bar u { position: absolute; top: -.3rem; bottom: -.3rem; left: 50%; border-left: 1.5px dashed var(--muted); }
.warning { border-left: 3px solid #d55e00; background: #fdf3ee; padding: .7rem 1rem; max-width: 46rem; }
details { border-top: 1px solid var(--line); padding: .9rem 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
.replies { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem;
  margin-top: 1rem; }
.reply { background: var(--soft); border-radius: .5rem; border-top: 3px solid #8b949e; padding: .7rem .9rem .9rem; }
.reply.soft { border-top-color: #0072b2; }
.reply.hard { border-top-color: #d55e00; }
.reply.sft { grid-column: 1 / -1; background: #fff; outline: 1px solid var(--line); }
.reply h3 { margin: 0 0 .3rem; font-size: .85rem; color: var(--muted); }
.reply div { font-size: .92rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; }
.empty { color: var(--muted); font-style: italic; }
footer { margin-top: 3.5rem; padding-top: 1.25rem; border-top: 2px solid var(--ink); }
footer h2 { margin-top: 0; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .75rem 1.5rem;
  margin: 1rem 0 0; }
dt { color: var(--muted); font-size: .82rem; }
dd { margin: 0; overflow-wrap: anywhere; }
#vg-tooltip-element { font: 14px/1.4 system-ui, Arial, sans-serif; }
@media (max-width: 640px) {
  body { font-size: 16px; }
  main { padding: 1.75rem 1rem 3rem; }
  h1 { font-size: 1.65rem; }
  h2 { margin-top: 2.5rem; }
  .claims li { grid-template-columns: 1fr; }
  .claims .evidence { grid-column: 1; }
  .plot.wide svg { max-width: none; }
  .accuracy th, .accuracy td { padding: .5rem .35rem; font-size: .82rem; }
  .accuracy th:first-child { padding-left: 0; }
  .bar { min-width: 4.5rem; }
  .card small { display: block; margin: 0; }
  .card th:first-child { width: 36%; }
  .card th:nth-child(2) { width: 28%; }
  .card th:nth-child(3) { width: 10%; }
}
@media print {
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, .reply, .claims li, tr, .warning { break-inside: avoid; }
  .scroll, .plot.wide { overflow: visible; }
  .results table { font-size: 6.5pt; }
  .results th, .results td { padding: .25rem .3rem; }
  .reply, .bar, .bar i, .bar b, .verdict { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

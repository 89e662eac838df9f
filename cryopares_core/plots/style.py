"""The look of the report."""

CSS = """
:root { --ink: #1d2733; --soft: #5b6876; --line: #dfe4ea; --blue: #1f6fb4; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 28px 32px 60px; color: var(--ink); background: #fff;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
header { border-bottom: 3px solid var(--blue); padding-bottom: 14px; }
h1 { margin: 0; font-size: 27px; }
h2 { margin: 34px 0 10px; font-size: 19px; }
h3 { margin: 18px 0 6px; font-size: 15px; }
.path { margin: 2px 0 14px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: 8px 34px; margin: 0; }
dt { color: var(--soft); font-size: 12px; }
dd { margin: 0; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-size: 12.5px; color: var(--soft); font-weight: 600; }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
.numbers td, .numbers th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers td:first-child, .numbers th:first-child { text-align: left; font-weight: 600; }
.settings { font-size: 13px; }
.settings td:first-child { width: 34%; font: 12px ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.settings td:nth-child(2) { font-weight: 600; overflow-wrap: anywhere; max-width: 240px; }
.bars td { padding: 3px 10px; border: 0; font-size: 13.5px; white-space: nowrap; }
.bars td:nth-child(2), .bars td:nth-child(3) { text-align: right; font-variant-numeric: tabular-nums; }
.bars td:last-child { width: 70%; min-width: 60px; }
.bar { height: 13px; background: var(--blue); border-radius: 2px; }
.judgement { list-style: none; margin: 16px 0 0; padding: 0; }
.judgement li { margin: 0 0 8px; padding: 8px 14px; border-left: 4px solid var(--line); background: #f6f8fa; }
.judgement .good { border-color: #2a8f5b; }
.judgement .note { border-color: #d9a400; }
.judgement .warning { border-color: #c0392b; }
.judgement small { display: block; color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; justify-content: center; align-items: flex-start; gap: 6px 10px; margin: 6px 0; }
.figures img { display: block; flex: 1 1 auto; width: 100%; min-width: 0; height: auto; }
p.note { color: var(--soft); font-size: 13px; margin: 4px 0 0; }
pre { background: #f6f8fa; padding: 12px 14px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; margin: 0; }
summary { cursor: pointer; margin: 14px 0 8px; font-weight: 600; color: var(--blue); }
@media (max-width: 800px) {
  body { padding: 18px 16px 40px; }
  .numbers { font-size: 13px; }
  .numbers td, .numbers th { padding: 6px 4px; }
  .numbers th { white-space: normal; font-size: 11.5px; vertical-align: bottom; }
  .settings thead { display: none; }
  .settings tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--line); }
  .settings td { display: inline; padding: 0; border: 0; vertical-align: baseline; }
  .settings td:nth-child(2)::before { content: " = "; font-weight: 400; }
  .settings td:nth-child(3)::before { content: " (default "; }
  .settings td:nth-child(3)::after { content: ")"; }
  .settings td:last-child { display: block; color: var(--soft); }
}
@media print { body { max-width: none; padding: 0; } section { break-inside: avoid; } details { display: none; } }
"""

"""Looks and behaviour of the HTML page (`page.py`), as text."""

STYLE = """
:root { color-scheme: light dark; --page: #faf9f6; --card: #fff; --ink: #1d2024; --soft: #666b73;
  --rule: #dedbd3; --normal: #0072b2; --anomalous: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1e2125; --ink: #e8e6e1;
  --soft: #9aa0a8; --rule: #34383e; --normal: #4aa8e0; --anomalous: #f08a3c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2.5rem 1.5rem 5rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 3rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
header p { max-width: none; }
header p, section > p, small, figcaption, article p { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.3rem, 1fr));
  gap: .75rem; margin: 1.75rem 0 1rem; }
.figures div { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
  padding: .75rem .8rem; }
dt { font-size: .8rem; color: var(--soft); }
dd { margin: 0; font-size: 1.4rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .78rem; font-weight: 400; letter-spacing: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; }
th[scope=row], th:first-child { text-align: left; font-weight: 500; padding-left: 0; }
thead th { border-bottom: 2px solid var(--rule); }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tfoot > tr > * { border-top: 2px solid var(--rule); font-weight: 700 !important; }
thead button { all: unset; cursor: pointer; color: var(--soft); font-size: .82rem; }
thead button:hover, thead button:focus-visible { color: var(--ink); text-decoration: underline; }
figure { margin: 0; }
section > figure { margin: .75rem 0 1.25rem; }
section > figure figcaption { color: var(--ink); font-weight: 600; font-size: .95rem; }
svg { max-width: 100%; height: auto; }
i { display: inline-block; width: .9em; height: .9em; vertical-align: -.1em; margin-left: 1em;
  border: 1px solid; border-radius: .15em; }
i:first-child { margin-left: 0; }
i.normal { color: var(--normal); background: color-mix(in srgb, currentColor 50%, transparent); }
i.anomalous { color: var(--anomalous);
  background: color-mix(in srgb, currentColor 50%, transparent); }
i.line { width: 0; border-width: 0 0 0 1px; border-style: dashed; border-radius: 0;
  height: 1.1em; color: var(--ink); }
form { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; margin: 1rem 0; font-size: .9rem; }
select { font: inherit; padding: .15rem .3rem; border-radius: .35rem; background: var(--card);
  color: var(--ink); border: 1px solid var(--rule); }
output { color: var(--soft); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); }
article { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
  padding: .75rem; break-inside: avoid; }
article.large { grid-column: 1 / -1; }
article[hidden] { display: none; }
article small { font-weight: 400; margin-left: .3rem; }
article h3 { margin: .6rem 0 .1rem; font-variant-numeric: tabular-nums; }
article p { margin: 0; font-size: .85rem; overflow-wrap: anywhere; }
.tiles { display: grid; gap: .5rem; grid-template-columns: repeat(var(--tiles), 1fr);
  cursor: zoom-in; }
.large .tiles { cursor: zoom-out; }
.tiles img { display: block; width: 100%; border-radius: .3rem; }
.tiles figcaption { font-size: .72rem; }
mark { color: #fff; background: var(--soft); border-radius: .3rem; padding: .05rem .45rem;
  font-size: .8rem; font-weight: 600; margin-right: .3rem; }
.missed, .false-alarm { background: #b3263a; }
.found, mark.anomalous { background: #b34f00; }
.passed, mark.normal { background: #0069a5; }
code, pre { font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: .4rem;
  padding: .75rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .2rem 0; }
details td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 30rem) { .cards { grid-template-columns: 1fr; } }
@media print { :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --soft: #444;
  --rule: #bbb; } body { max-width: none; padding: 0; font-size: .8rem; } form { display: none; }
  .cards { grid-template-columns: 1fr 1fr; } * { print-color-adjust: exact; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll("thead button")) button.onclick = () => {
  const column = button.parentNode.cellIndex, body = button.closest("table").tBodies[0];
  const falling = button.dataset.falling = button.dataset.falling === "1" ? "" : "1";
  const key = row => row.cells[column].textContent, sign = falling ? -1 : 1;
  const number = text => text === "-" ? -1 : parseFloat(text);
  const compare = (a, b) => column ? number(key(a)) - number(key(b)) : key(a).localeCompare(key(b));
  body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
};
const form = document.querySelector("#gallery form"), cards = document.querySelector(".cards");
const show = () => {
  const is = (card, name) => !form[name]?.value || form[name].value === card.dataset[name];
  const all = [...cards.children], by = form.order.value;
  for (const card of all) card.hidden = !(is(card, "verdict") && is(card, "category"));
  cards.append(...all.sort((a, b) => a.dataset[by] - b.dataset[by]));
  form.querySelector("output").value = `${all.filter(card => !card.hidden).length} shown`;
};
if (form) {
  form.onchange = show;
  form.onsubmit = () => false;
  cards.onclick = event => event.target.closest(".tiles")?.parentNode.classList.toggle("large");
  show();
}
"""

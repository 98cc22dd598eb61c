"use strict";
// Decisions at thresholds that can be moved, and the gallery. Nothing is loaded, nothing is sent.
const data = JSON.parse(document.getElementById("data").textContent);
const { kinds, categories, images } = data, all = images.score.map((_, i) => i);
const now = kinds.map(kind => kind.threshold);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8b6d00", "#56b4e9", "#7a5195",
  "#5d6d7e"];
const $ = (selector, where = document) => where.querySelector(selector);
const $$ = (selector, where = document) => [...where.querySelectorAll(selector)];
const number = value => +value.toPrecision(4);
const percent = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)} %` : "-";

const anomalous = i => images.score[i] > now[images.kind[i]];
const verdict = i => !data.labelled ? (anomalous(i) ? "anomalous" : "normal")
  : images.label[i] ? (anomalous(i) ? "found" : "missed") : anomalous(i) ? "false alarm" : "passed";
const isMistake = name => name === "missed" || name === "false alarm";
const moved = () => kinds.some((kind, k) => now[k] !== kind.threshold);

function counts(rows) {
  const found = { missed: 0, found: 0, passed: 0, "false alarm": 0, anomalous: 0, normal: 0 };
  for (const i of rows) found[verdict(i)] += 1;
  return found;
}

function fillRow(row, rows) {
  const count = counts(rows), bad = count.missed + count.found;
  const good = count.passed + count["false alarm"];
  const texts = { ...count, images: rows.length, "missed rate": percent(count.missed, bad),
    "false alarm rate": percent(count["false alarm"], good),
    "anomalous rate": percent(count.anomalous, rows.length) };
  for (const cell of $$("[data-count]", row)) cell.textContent = texts[cell.dataset.count];
  row.classList.toggle("bad", bad > 0 && 2 * count.missed >= bad);
}

function updateDecisions() {
  for (const row of $$("#decisions tr[data-group]")) {
    const group = row.dataset.group, of = data.labelled ? images.category : images.kind;
    fillRow(row, group === "all" ? all : all.filter(i => of[i] === +group));
  }
  const count = counts(all);
  for (const place of $$("[data-total]")) place.textContent = count[place.dataset.total];
  $("#state").textContent = moved() ? "Thresholds were moved on this page."
    : "Thresholds are those of the calibration.";
  $("#reset").disabled = !moved();
}

function ofKind(k) {
  const rows = all.filter(i => images.kind[i] === k), values = rows.map(i => images.score[i]);
  if (!data.labelled) return [{ name: "anomalous", values }];
  const labelled = wanted => rows.filter(i => images.label[i] === wanted).map(i => images.score[i]);
  return [{ name: "normal", values: labelled(0) }, { name: "anomalous", values: labelled(1) }];
}

function drawKind(k) {
  const place = $(`#kind-${k}`), kind = kinds[k], slider = $("input", place);
  const groups = [{ name: "reference", values: kind.normals }, ...ofKind(k)];
  const title = "image score";
  histogram($(".score", place), title, kind.range, groups, [now[k]]);
  slider.value = now[k];
  const above = values => values.filter(value => value > now[k]).length;
  const parts = [`threshold ${number(now[k])}`];
  const words = { reference: "normal images that set it", normal: "normal test images",
    anomalous: data.labelled ? "anomalous test images" : "new images" };
  for (const { name, values } of groups) if (values.length)
    parts.push(`${above(values)} of ${values.length} ${words[name]} above`);
  $("output", place).textContent = slider.ariaValueText = parts.join(" · ");
}

function drawTerms(k) {
  for (const place of $$(`#kind-${k} .term`)) {
    const values = images.terms[place.dataset.term], rows = all.filter(i => images.kind[i] === k);
    const chosen = data.labelled ? [0, 1] : [undefined];
    const groups = chosen.map(label => ({ name: label === 0 ? "normal" : "anomalous", values: rows
      .filter(i => label === undefined || images.label[i] === label).map(i => values[i]) }));
    const every = groups.flatMap(group => group.values);
    if (!every.length) continue;
    const low = every.reduce((a, b) => Math.min(a, b)), high = every.reduce((a, b) => Math.max(a, b));
    histogram(place, place.dataset.title, [low, high > low ? high : low + 1], groups, [], 130);
  }
}

const ranked = categories.map((_, c) => {
  const rows = all.filter(i => images.category[i] === c);
  return { rows, points: data.labelled
    ? operatingPoints(rows.map(i => images.score[i]), rows.map(i => images.label[i])) : [] };
});

function drawCurves() {
  const place = $("#curves");
  if (!place) return;
  const chosen = $("#gallery [name=category]")?.value ?? "", curves = { roc: [], pr: [], pro: [] };
  categories.forEach((name, c) => {
    const { rows, points } = ranked[c];
    const colour = COLOURS[c % COLOURS.length], faint = chosen !== "" && +chosen !== c;
    const count = counts(rows), bad = count.found + count.missed;
    const good = count.passed + count["false alarm"], pro = data.pro[c];
    if (pro) curves.pro.push(
      { name, colour, faint, dot: null, points: pro[0].map((x, i) => [x, pro[1][i]]) });
    if (!bad || !good) return;
    const called = count.found + count["false alarm"], recall = count.found / bad;
    curves.roc.push({ name, colour, faint, points: points.map(point => [point[0], point[1]]),
      dot: [count["false alarm"] / good, recall] });
    curves.pr.push({ name, colour, faint, points: points.map(point => [point[1], point[2]]),
      dot: called ? [recall, count.found / called] : null });
  });
  const show = (id, ...rest) => $(id, place) && curvePlot($(id, place), ...rest);
  show(".roc", "false-alarm rate", "found", [0, 1], curves.roc);
  show(".pr", "found", "precision", [0, 1], curves.pr);
  show(".pro", "false-alarm rate of pixels", "overlap with defects", [0, 0.3], curves.pro);
}

function drawLegend() {
  $("#curves .legend")?.append(...categories.map((name, c) => {
    const item = document.createElement("li"), colour = document.createElement("b");
    colour.style.background = COLOURS[c % COLOURS.length];
    item.append(colour, name);
    return item;
  }));
}

const form = $("#gallery form"), cards = $$("#gallery article");

function updateCards() {
  for (const card of cards) {
    const i = +card.dataset.image, mark = $("mark", card), word = verdict(i);
    mark.textContent = word;
    mark.className = word.replace(" ", "-");
    card.dataset.verdict = word;
    $("small", card).textContent = `threshold ${number(now[images.kind[i]])}`;
  }
  if (form) filterCards();
}

function filterCards() {
  const wanted = name => form[name]?.value ?? "";
  const fits = i => (!wanted("category") || images.category[i] === +wanted("category"))
    && (!wanted("defect") || images.defect[i] === +wanted("defect"))
    && (!wanted("verdict") || verdict(i) === wanted("verdict")
      || (wanted("verdict") === "mistakes" && isMistake(verdict(i))));
  const excess = i => images.score[i] - now[images.kind[i]];
  const wrong = i => images.label[i] ? excess(i) : -excess(i);
  const key = form.order.value === "wrong" ? wrong : i => -images.score[i];
  for (const card of cards) card.hidden = !fits(+card.dataset.image);
  cards.sort((a, b) => key(+a.dataset.image) - key(+b.dataset.image));
  $(".cards").append(...cards);
  const shown = cards.filter(card => !card.hidden).length, fitting = all.filter(fits).length;
  const rest = shown < fitting ? `; this page holds pictures of ${cards.length} images, `
    + `${data.table} has all` : "";
  $("output", form).textContent = `${shown} of ${fitting} shown${rest}`;
}

const dialog = $("dialog");

function enlarge(card) {
  dialog.card = card;
  const place = $("div", dialog);
  place.replaceChildren(...[...card.children].map(child => child.cloneNode(true)));
  $("p.path", dialog).textContent = images.path[+card.dataset.image];
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const shown = cards.filter(card => !card.hidden), next = shown[shown.indexOf(dialog.card) + by];
  if (next) enlarge(next);
}

function prepareCards() {
  for (const card of cards) {
    const first = $(".stack", card), second = first.cloneNode(true);
    for (const picture of $$(".heat", first)) picture.remove();
    for (const picture of $$(".truth", second)) picture.remove();
    if ($(".heat", second)) first.after(second);
    $(".tiles", card).classList.toggle("two", !!$(".heat", second));
    card.onclick = () => enlarge(card);
    card.onkeydown = event => { if (event.key === "Enter") enlarge(card); };
  }
  if (!dialog) return;
  dialog.onclick = event => { if (event.target === dialog) dialog.close(); };
  dialog.onkeydown = event => step({ ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0);
  dialog.onclose = () => dialog.card?.focus();
  $(".previous", dialog).onclick = () => step(-1);
  $(".next", dialog).onclick = () => step(1);
  $(".close", dialog).onclick = () => dialog.close();
}

function update() {
  updateDecisions();
  kinds.forEach((_, k) => drawKind(k));
  drawCurves();
  updateCards();
}

let pending = 0;
function soon() {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(update);
}

function sortable(button) {
  button.onclick = () => {
    const column = button.parentNode.cellIndex, body = button.closest("table").tBodies[0];
    const falling = button.dataset.falling = button.dataset.falling === "1" ? "" : "1";
    const key = row => row.cells[column].textContent, sign = falling ? -1 : 1;
    const value = text => text === "-" ? -1 : parseFloat(text);
    const compare = (a, b) => column ? value(key(a)) - value(key(b)) : key(a).localeCompare(key(b));
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  };
}

$$("thead button").forEach(sortable);
kinds.forEach((kind, k) => {
  const slider = $(`#kind-${k} input`), [min, max] = kind.range;
  Object.assign(slider, { min, max, step: (max - min) / 1000 });
  slider.oninput = event => { now[k] = +event.target.value; soon(); };
});
const shift = $("#shift");
shift.oninput = () => { kinds.forEach((kind, k) => now[k] = kind.threshold + +shift.value); soon(); };
$("#reset").onclick = () => { shift.value = 0; shift.oninput(); };
if (form) {
  form.onchange = () => { filterCards(); drawCurves(); };
  form.onsubmit = () => false;
}
function draw() {
  update();
  kinds.forEach((_, k) => drawTerms(k));
}
prepareCards();
drawLegend();
draw();
let width = window.innerWidth;
window.onresize = () => { if (width !== window.innerWidth) { width = window.innerWidth; draw(); } };

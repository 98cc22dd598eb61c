"use strict";
// The page of a line: what comes is asked for every second; text from outside is only ever text.
const $ = (selector, where = document) => where.querySelector(selector);
const number = value => value === null ? "-" : `${+value.toPrecision(4)}`;
const MOST_SHOWN = 2000, ROWS = 50;
let detector = null, images = [], begun = "", chosen = null, failures = 0;

async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof content.detail === "string" ? content.detail
    : `${answer.status} ${answer.statusText}`);
  return content;
}

function alarm(text) {
  $("#alarm").textContent = text;
  $("#alarm").hidden = !text;
}

function showDetector(known) {
  detector = known;
  $("#title").textContent = known.name;
  document.title = `${known.name}: line`;
  const watched = known.watching.length ? ` · watching ${known.watching.join(", ")}` : "";
  $("#about").textContent = `invad_jax ${known.version} · ${known.kinds.length} `
    + `${known.kinds.length === 1 ? "kind" : "kinds"} of product${watched}`;
}

function makeKinds() {
  detector.kinds.forEach((kind, k) => {
    const place = $("#kind").content.firstElementChild.cloneNode(true), slider = $("input", place);
    const [min, max] = kind.range;
    $("h3", place).textContent = kind.name;
    slider.setAttribute("aria-label", `threshold ${kind.name}`);
    Object.assign(slider, { min, max, step: (max - min) / 1000 });
    slider.value = kind.threshold;
    slider.oninput = () => { place.moved = true; drawKind(k); };
    $(".use", place).onclick = () => use(k, +slider.value);
    $(".back", place).onclick = () => use(k, kind.calibrated_threshold);
    $("#kinds").append(place);
  });
}

async function use(k, value) {
  try {
    const name = detector.kinds[k].name, place = $("#kinds").children[k];
    showDetector(await ask("/api/thresholds", { method: "PUT",
      headers: { "content-type": "application/json" }, body: JSON.stringify({ [name]: value }) }));
    place.moved = false;
    $("input", place).value = value;
    draw();
  } catch (error) { alarm(`The threshold could not be moved: ${error.message}`); }
}

function drawKind(k) {
  const kind = detector.kinds[k], place = $("#kinds").children[k], slider = $("input", place);
  const value = place.moved ? +slider.value : kind.threshold;
  const scores = images.filter(one => one.component === kind.name).map(one => one.image_score);
  histogram($(".score", place), "image score", kind.range,
    [{ name: "reference", values: kind.normals }, { name: "anomalous", values: scores }], [value]);
  const above = values => `${values.filter(one => one > value).length} of ${values.length}`;
  $("output", place).textContent = slider.ariaValueText = `threshold ${number(value)}`
    + `${place.moved ? " (not used yet)" : ""} · above it: ${above(kind.normals)} normal images that`
    + ` set it, ${above(scores)} of this shift`;
  $(".use", place).disabled = !place.moved;
  $(".back", place).disabled = kind.threshold === kind.calibrated_threshold;
}

function drawCourse() {
  const place = $("#course"), shown = images.filter(one => one.image_score !== null).slice(-200);
  if (!shown.length) { place.replaceChildren(); return; }
  const height = one => Math.min(Math.max(one.image_score / one.threshold, -1), 3);
  const low = Math.min(-0.5, ...shown.map(height)), high = Math.max(1.5, ...shown.map(height));
  const first = shown[0].id, last = Math.max(shown.at(-1).id, first + 1);
  const { svg, px, py, inner } = plot(place, 190, [first, last], [low, high], "image", "", false);
  svg.append(shape("line",
    { class: "mark", x1: inner.left, x2: inner.right, y1: py(1), y2: py(1) }));
  for (const one of shown) svg.append(titled(
    shape("circle", { class: `dot ${one.decision}`, cx: px(one.id), cy: py(height(one)), r: 3.5 }),
    `${one.name}: ${number(one.image_score)}`));
  svg.setAttribute("aria-label", "scores of the latest images, in units of the threshold");
}

function cell(text, name = "td") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function drawRows() {
  $("#latest tbody").replaceChildren(...images.slice(-ROWS).reverse().map(one => {
    const row = document.createElement("tr"), mark = cell(one.decision, "mark");
    const decision = document.createElement("td");
    mark.className = one.decision;
    decision.append(mark);
    row.append(cell(one.name), decision, cell(number(one.image_score)), cell(number(one.threshold)),
      cell(one.component ?? one.error), cell(new Date(one.time).toLocaleTimeString()));
    row.tabIndex = 0;
    row.onclick = () => show(chosen = one);
    row.onkeydown = event => { if (event.key === "Enter") show(chosen = one); };
    return row;
  }));
}

function show(one) {
  const kept = one.decision !== "unreadable", heat = $("#current .heat");
  $("#current").hidden = false;
  $("#follow").hidden = !chosen;
  $("#verdict").className = one.decision;
  $("#verdict strong").textContent = { normal: "OK", anomalous: "NOT OK" }[one.decision] ?? "?";
  $("#verdict span").textContent = `${one.name}: ${one.decision}`;
  $("#current .tiles").hidden = $("#current .bar").hidden = !kept;
  if (kept) {
    for (const picture of document.querySelectorAll("#current .photograph"))
      picture.src = `/api/images/${one.id}/photograph`;
    heat.hidden = !one.regions.length;
    if (one.regions.length) heat.src = `/api/images/${one.id}/heat`;
    else heat.removeAttribute("src");
  }
  const places = one.regions.length === 1 ? "1 place" : `${one.regions.length} places`;
  $("#detail").textContent = !kept ? one.error : `score ${number(one.image_score)}, threshold `
    + `${number(one.threshold)}; ${number(one.normal_percentile)} % of the normal images that set it `
    + `score lower or the same; ${places} with heat; ${Math.round(one.milliseconds)} ms`;
}

function showShift(shift) {
  const total = shift.normal + shift.anomalous + shift.unreadable;
  const decided = shift.normal + shift.anomalous;
  for (const name of ["normal", "anomalous", "unreadable"]) $(`#${name}`).textContent = shift[name];
  $("#total").textContent = total;
  $("#since").textContent = `since ${new Date(shift.started).toLocaleTimeString()}`;
  $("#rate").textContent = decided ? `${(100 * shift.anomalous / decided).toFixed(1)} %` : "";
  $("#lost").classList.toggle("wrong", shift.unreadable > 0);
  $("#drift").textContent = shift.drift.join("; ");
  $("#drift").className = shift.drift.length ? "moved" : "";
  $("#trouble").textContent = shift.trouble ?? "";
  $("#trouble").hidden = !shift.trouble;
}

function draw() {
  detector.kinds.forEach((_, k) => drawKind(k));
  drawCourse();
  drawRows();
}

async function refresh() {
  const last = images.length ? images.at(-1).id : 0;
  const shift = await ask(`/api/shift?at_most=500&after=${last}`);
  const anew = shift.started !== begun;
  begun = shift.started;
  if (anew) images = [];
  const newest = images.length ? images.at(-1).id : 0;  // another answer may have come in between
  images = [...images, ...shift.images.filter(one => one.id > newest)].slice(-MOST_SHOWN);
  showShift(shift);
  if (anew || shift.images.length) draw();
  if (shift.images.length && !chosen) show(shift.images.at(-1));
}

async function keepAsking() {
  try {
    await refresh();
    if (failures) alarm("");
    failures = 0;
  } catch {
    failures += 1;
    if (failures > 2) alarm("The server does not answer: nothing is being decided.");
  }
  setTimeout(keepAsking, 1000);
}

async function send(files) {
  chosen = null;
  alarm("");
  for (const file of files) {
    try {
      if (file.size > detector.max_bytes) throw new Error("larger than --max-megabytes allows");
      await ask(`/api/images?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file,
        headers: { "content-type": file.type.startsWith("image/") ? file.type
          : "application/octet-stream" } });
      await refresh();
    } catch (error) { alarm(`${file.name}: ${error.message}`); }
  }
}

$("#follow").onclick = () => { chosen = null; show(images.at(-1)); };
const drop = $("#drop");
drop.ondragover = event => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = event => {
  event.preventDefault();
  drop.classList.remove("over");
  send([...event.dataTransfer.files]);
};
$("#files").onchange = event => { send([...event.target.files]); };
$("#begin").onclick = async () => {
  await ask("/api/shift", { method: "POST" });
  $("#current").hidden = true;
  chosen = null;
  refresh();
};
window.onresize = () => { if (detector) draw(); };
ask("/api/detector").then(known => { showDetector(known); makeKinds(); keepAsking(); })
  .catch(error => alarm(`The server does not answer: ${error.message}`));

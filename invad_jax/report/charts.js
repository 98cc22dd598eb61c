"use strict";
// Histograms and curves as SVG, drawn as wide as the place they have, so that text stays legible.
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 40, right: 12, top: 22, bottom: 34 };

function shape(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function titled(element, title) {
  element.append(shape("title", {}, title));
  return element;
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(step => step >= rough);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => +((first + i) * step).toPrecision(12));
}

function plot(place, height, x, y, xTitle, yTitle, percent) {
  const width = Math.max(place.clientWidth, 220), inner = {
    left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
  const px = value => inner.left + (value - x[0]) / (x[1] - x[0]) * (inner.right - inner.left);
  const py = value => inner.bottom - (value - y[0]) / (y[1] - y[0]) * (inner.bottom - inner.top);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  const axis = shape("g", { class: "axis" });
  for (const value of ticks(...x, width / 90)) axis.append(
    shape("line", { x1: px(value), x2: px(value), y1: inner.bottom, y2: inner.bottom + 4 }),
    shape("text", { x: px(value), y: inner.bottom + 16, "text-anchor": "middle" }, `${value}`));
  for (const value of ticks(...y, 4)) axis.append(
    shape("line", { class: "grid", x1: inner.left, x2: inner.right, y1: py(value), y2: py(value) }),
    shape("text", { x: inner.left - 6, y: py(value) + 4, "text-anchor": "end" },
      percent ? `${Math.round(100 * value)}%` : `${value}`));
  axis.append(
    shape("line", { x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom }),
    shape("text", { x: inner.right, y: height - 4, "text-anchor": "end" }, xTitle),
    shape("text", { x: 2, y: 8 }, yTitle));
  svg.append(axis);
  place.replaceChildren(svg);
  return { svg, px, py, inner };
}

// groups: [{name, values}], each in percent of itself; marks: [value]
function histogram(place, title, range, groups, marks, height = 170) {
  const bins = 44, width = (range[1] - range[0]) / bins, shares = groups.map(({ values }) => {
    const counts = new Array(bins).fill(0);
    for (const value of values)
      counts[Math.min(Math.max(Math.floor((value - range[0]) / width), 0), bins - 1)] += 1;
    return counts.map(count => count / Math.max(values.length, 1));
  });
  const top = Math.max(...shares.flat(), 0.05) * 1.05;
  const { svg, px, py, inner } = plot(place, height, range, [0, top], title, "", true);
  groups.forEach(({ name, values }, k) => {
    let path = `M${px(range[0])} ${py(0)}`;
    shares[k].forEach((share, i) => {
      path += `V${py(share)}H${px(range[0] + (i + 1) * width)}`;
    });
    svg.append(titled(shape("path", { class: `bars ${name}`, d: path + `V${py(0)}` }),
      `${values.length} images`));
  });
  for (const mark of marks) {
    const at = px(Math.min(Math.max(mark, range[0]), range[1]));
    svg.append(shape("line", { class: "mark", x1: at, x2: at, y1: inner.top, y2: inner.bottom }));
  }
  svg.setAttribute("aria-label", `histogram of ${title}`);
}

// curves: [{name, colour, points: [[x, y]], dot: [x, y] or null, faint}]
function curvePlot(place, xTitle, yTitle, x, curves) {
  const { svg, px, py } = plot(place, 250, x, [0, 1], xTitle, yTitle, false);
  for (const { name, colour, points, dot, faint } of curves) {
    const path = points.map(([a, b], i) => `${i ? "L" : "M"}${px(a).toFixed(1)} ${py(b).toFixed(1)}`);
    const opacity = faint ? 0.15 : 1;
    svg.append(titled(
      shape("path", { class: "curve", d: path.join(""), stroke: colour, opacity }), name));
    if (dot) svg.append(titled(
      shape("circle", { cx: px(dot[0]), cy: py(dot[1]), r: 4, fill: colour, opacity }),
      `${name}, at the threshold`));
  }
  svg.setAttribute("aria-label", `${yTitle} against ${xTitle}`);
}

// Every distinct score is a threshold: [[false-alarm rate, found, precision]], from the highest on.
function operatingPoints(scores, labels) {
  const order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
  const positives = labels.filter(Boolean).length, negatives = labels.length - positives;
  const points = [[0, 0, 1]];
  let found = 0, alarms = 0;
  order.forEach((i, rank) => {
    if (labels[i]) found += 1; else alarms += 1;
    if (rank + 1 < order.length && scores[order[rank + 1]] === scores[i]) return;
    points.push([alarms / negatives, found / positives, found / (found + alarms)]);
  });
  return points;
}

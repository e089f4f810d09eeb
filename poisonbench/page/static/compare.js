// Any runs side by side: what they reached, what they differ in, their curves over each other.

/**
 * @typedef {object} Run
 * @property {string} id
 * @property {string} title
 * @property {HTMLElement} article
 * @property {Record<string, unknown>} data
 */

/**
 * What the page knows of a run.
 * @param {string} id
 * @returns {Run | null}
 */
function runOf(id) {
  const article = document.getElementById(`run-${id}`);
  const data = runData()[id];
  if (!article || !data) return null;
  return { id, title: article.querySelector("h2")?.textContent ?? id, article, data };
}

/** @type {Record<string, any> | null} */
let parsed = null;

/** The figures of all runs, parsed when they are first asked for. @returns {Record<string, any>} */
function runData() {
  parsed ??= JSON.parse(document.getElementById("run-data")?.textContent ?? "{}");
  return parsed ?? {};
}

/**
 * Truth values out of base64, first bit highest.
 * @param {string} text
 * @param {number} count
 * @returns {boolean[]}
 */
function bitsOf(text, count) {
  const bytes = atob(text);
  return Array.from({ length: count }, (_, i) => ((bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1) === 1);
}

/**
 * The difference of two runs' accuracies on the same test images, in points, with the normal 95 %
 * interval of the choice of the images: a pair of runs says nothing of other seeds and poisons.
 * @param {boolean[]} first
 * @param {boolean[]} second
 * @returns {{difference: number, low: number, high: number}}
 */
function pairedDifference(first, second) {
  const n = first.length;
  let ours = 0;
  let theirs = 0;
  for (let i = 0; i < n; i += 1) {
    if (first[i] && !second[i]) ours += 1;
    else if (second[i] && !first[i]) theirs += 1;
  }
  const mean = (ours - theirs) / n;
  const half = 1.959964 * Math.sqrt(((ours + theirs) / n - mean * mean) / (n - 1));
  return { difference: 100 * mean, low: 100 * (mean - half), high: 100 * (mean + half) };
}

/**
 * An element with a text and children.
 * @param {string} name
 * @param {string} [text]
 * @param {...Node} children
 * @returns {HTMLElement}
 */
function element(name, text = "", ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/**
 * @param {number} value
 * @returns {string}
 */
function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

/**
 * What stands in the row of differences: that of a run from the first one.
 * @param {Run} run
 * @param {Run} first
 * @returns {string}
 */
function differenceText(run, first) {
  if (run === first) return "-";
  const [own, base] = [run.data, first.data];
  const plain = signed(100 * (Number(own.accuracy) - Number(base.accuracy)));
  if (own.images !== base.images) return `${plain} (other test images)`;
  if (!own.right || !base.right) return `${plain} (no outcomes by image)`;
  const count = Number(own.count);
  const { difference, low, high } = pairedDifference(
    bitsOf(String(own.right), count),
    bitsOf(String(base.right), count),
  );
  return `${signed(difference)} [${signed(low)}, ${signed(high)}]`;
}

/**
 * A table of runs: a row a fact, a column a run; rows that are alike come last.
 * @param {Run[]} runs
 * @returns {HTMLElement}
 */
function sideBySide(runs) {
  const head = element("tr", "", element("th", "run"));
  for (const run of runs) {
    const link = element("a", run.title);
    link.setAttribute("href", `#run-${run.id}`);
    head.append(element("th", "", link));
  }
  const body = element("tbody");
  const row = (/** @type {string} */ name, /** @type {string[]} */ values) => {
    const title = element("th", name);
    title.setAttribute("scope", "row");
    body.append(element("tr", "", title, ...values.map((value) => element("td", value))));
  };
  row("test accuracy", runs.map((run) => `${(100 * Number(run.data.accuracy)).toFixed(2)} %`));
  row("difference from the first, points [95 %]", runs.map((run) => differenceText(run, runs[0])));
  row("seconds", runs.map((run) => Number(run.data.seconds).toFixed(1)));
  const settings = runs.map((run) => /** @type {Record<string, string>} */ (run.data.settings));
  const names = [...new Set(settings.flatMap((own) => Object.keys(own)))].sort();
  const values = names.map((name) => ({ name, own: settings.map((one) => one[name] ?? "-") }));
  const differing = values.filter(({ own }) => new Set(own).size > 1);
  for (const { name, own } of differing) row(name, own);
  const alike = values.length - differing.length;
  const table = element("table", "", element("caption", `${alike} settings are alike`), element("thead", "", head), body);
  const wide = element("div", "", table);
  wide.className = "wide";
  wide.tabIndex = 0;
  wide.setAttribute("role", "region");
  wide.setAttribute("aria-label", "Chosen runs");
  return wide;
}

const SVG = "http://www.w3.org/2000/svg";

/**
 * Curves of runs over each other.
 * @param {string} title
 * @param {number[][]} lines
 * @returns {HTMLElement}
 */
function overlay(title, lines) {
  const flat = lines.flat();
  const [low, high] = [Math.min(...flat), Math.max(...flat)];
  const most = Math.max(...lines.map((line) => line.length), 2);
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("class", "plot");
  picture.setAttribute("viewBox", "0 0 360 220");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", title);
  const place = (/** @type {number} */ value) => 180 - (160 * (value - low)) / (high - low || 1);
  for (const [text, x, y, anchor] of [
    [high.toPrecision(3), 46, 24, "end"],
    [low.toPrecision(3), 46, 184, "end"],
    ["epoch 1", 52, 200, "start"],
    [String(most), 348, 200, "end"],
  ]) {
    const label = document.createElementNS(SVG, "text");
    label.setAttribute("x", String(x));
    label.setAttribute("y", String(y));
    label.setAttribute("text-anchor", String(anchor));
    label.textContent = String(text);
    picture.append(label);
  }
  const axis = document.createElementNS(SVG, "path");
  axis.setAttribute("class", "axis");
  axis.setAttribute("d", "M52,20V186H348");
  picture.append(axis);
  lines.forEach((line, number) => {
    const path = document.createElementNS(SVG, "polyline");
    const points = line.map((value, i) => `${52 + (296 * i) / (most - 1)},${place(value).toFixed(1)}`);
    path.setAttribute("class", `line s${number % 7}`);
    path.setAttribute("points", points.join(" "));
    if (number % 2) path.setAttribute("stroke-dasharray", "6 3");
    picture.append(path);
  });
  const figure = element("figure", "", element("figcaption", title));
  figure.append(picture);
  return figure;
}

/**
 * Show runs side by side.
 * @param {string[]} ids
 */
function showChosen(ids) {
  const place = document.getElementById("chosen-runs");
  if (!place) return;
  const runs = /** @type {Run[]} */ (ids.map(runOf).filter((run) => run !== null));
  if (runs.length < 2) return;
  const plots = element(
    "div",
    "",
    overlay("Training loss", runs.map((run) => /** @type {number[]} */ (run.data.loss))),
    overlay("Validation accuracy", runs.map((run) => /** @type {number[]} */ (run.data.validation))),
  );
  plots.className = "plots";
  const note = element(
    "p",
    "The interval is of the choice of the test images alone, from the images that each run got " +
      "right: two runs say nothing of other seeds and poisons. Defenses over several trials are " +
      "compared, with verdicts' statistics, under comparisons.",
  );
  note.className = "small";
  const keys = element("ul");
  keys.className = "legend";
  runs.forEach((run, number) => {
    const mark = element("b", number % 2 ? "┅ " : "━ ");
    const item = element("li", "", mark, document.createTextNode(run.title));
    item.className = `s${number % 7}`;
    keys.append(item);
  });
  place.replaceChildren(sideBySide(runs), note, plots, keys);
}

/** A box beside each run, and a button that compares those that are ticked. */
function startComparing() {
  const table = document.getElementById("run-table");
  const button = document.getElementById("compare");
  if (!(table instanceof HTMLTableElement) || !(button instanceof HTMLButtonElement)) return;
  for (const row of table.tBodies[0].rows) {
    const link = row.cells[row.cells.length - 1].querySelector("a");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = link?.textContent ?? "";
    box.setAttribute("aria-label", `compare run ${box.value}`);
    row.cells[row.cells.length - 1].prepend(box, " ");
  }
  const ticked = () =>
    [...table.querySelectorAll("input:checked")].map((box) => /** @type {HTMLInputElement} */ (box).value);
  table.addEventListener("change", () => {
    const count = ticked().length;
    button.disabled = count < 2;
    button.textContent = count < 2 ? "compare them" : `compare ${count} runs`;
  });
  button.addEventListener("click", () => {
    location.hash = hashOf({ anchor: "chosen", values: new URLSearchParams({ of: ticked().join(" ") }) });
  });
  for (const part of document.querySelectorAll(".scripted")) /** @type {HTMLElement} */ (part).hidden = false;
}

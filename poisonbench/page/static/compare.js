// Any runs side by side: what they reached, what they differ in, their curves over each other.

/**
 * @typedef {object} Run
 * @property {string} id
 * @property {string} title
 * @property {number} accuracy in percent
 * @property {number} seconds
 * @property {Map<string, string>} settings
 * @property {string} images which the accuracy is of
 * @property {boolean[] | null} right by test image
 * @property {number[]} loss by epoch
 * @property {number[]} validation accuracy by epoch, in percent
 */

/**
 * What the page says of a run, read from its own part.
 * @param {string} id
 * @returns {Run | null}
 */
function runOf(id) {
  const article = document.getElementById(`run-${id}`);
  if (!article) return null;
  const folded = article.querySelector(":scope > noscript");
  const part = folded ? contentOf(folded) : article;
  const all = /** @type {HTMLElement | null} */ (part.querySelector(".all-settings"));
  const { right, count, images = "" } = all?.dataset ?? {};
  const lines = (all?.textContent ?? "").split("\n").filter((line) => line.includes(" = "));
  const curve = (part.querySelector("pre.curve")?.textContent ?? "").trim().split("\n").slice(1);
  const columns = curve.map((line) => line.trim().split(/\s+/));
  return {
    id,
    title: part.querySelector("h2")?.textContent ?? id,
    accuracy: 100 * Number(part.querySelector("[data-accuracy]")?.getAttribute("data-accuracy")),
    seconds: Number(part.querySelector("[data-seconds]")?.getAttribute("data-seconds")),
    settings: new Map(lines.map((line) => /** @type {[string, string]} */ (cut(line, " = ")))),
    images,
    right: right ? bitsOf(right, Number(count)) : null,
    loss: columns.map((column) => Number(column[2])),
    validation: columns.map((column) => Number(column[3])),
  };
}

/**
 * A text before and behind the first of a mark.
 * @param {string} text
 * @param {string} mark
 * @returns {string[]}
 */
function cut(text, mark) {
  const at = text.indexOf(mark);
  return [text.slice(0, at), text.slice(at + mark.length)];
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
  const plain = signed(run.accuracy - first.accuracy);
  if (run.images !== first.images) return `${plain} (other test images)`;
  if (!run.right || !first.right) return `${plain} (no outcomes by image)`;
  const { difference, low, high } = pairedDifference(run.right, first.right);
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
  row("test accuracy", runs.map((run) => `${run.accuracy.toFixed(2)} %`));
  row("difference from the first, points [95 %]", runs.map((run) => differenceText(run, runs[0])));
  row("seconds", runs.map((run) => run.seconds.toFixed(1)));
  const names = [...new Set(runs.flatMap((run) => [...run.settings.keys()]))];
  const values = names.map((name) => ({ name, own: runs.map((run) => run.settings.get(name) ?? "-") }));
  const differing = values.filter(({ own }) => new Set(own).size > 1);
  for (const { name, own } of differing) row(name, own);
  const alike = values.length - differing.length;
  const table = element("table", "", element("caption", `Side by side; ${alike} settings that all share are left out`), element("thead", "", head), body);
  const wide = element("div", "", table);
  wide.className = "wide";
  wide.tabIndex = 0;
  wide.setAttribute("role", "region");
  wide.setAttribute("aria-label", "Chosen runs");
  return wide;
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
    overlay("Training loss", "training loss", runs.map((run) => run.loss)),
    overlay("Validation accuracy", "validation accuracy, %", runs.map((run) => run.validation)),
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
    const key = shape("svg", { class: `key s${number % 7}`, viewBox: "0 0 28 14", "aria-hidden": "true" });
    key.append(shape("path", { class: "line", d: "M1,7H27", ...dashOf(number) }));
    keys.append(element("li", "", key, document.createTextNode(`${run.title}: ${run.settings.get("trained on") ?? ""}`)));
  });
  place.replaceChildren(sideBySide(runs), note, plots, keys);
}

/** A button that compares the runs that are ticked. */
function startComparing() {
  const table = document.getElementById("run-table");
  const button = document.getElementById("compare");
  if (!(table instanceof HTMLTableElement) || !(button instanceof HTMLButtonElement)) return;
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

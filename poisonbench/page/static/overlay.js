// Learning curves of chosen runs over each other, drawn as Python draws those of one run.

/**
 * An element of a picture.
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 * @returns {SVGElement}
 */
function shape(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.textContent = text;
  return made;
}

/**
 * Every second line is dashed, so that lines differ without colour.
 * @param {number} number
 * @returns {Record<string, string>}
 */
function dashOf(number) {
  return number % 2 ? { "stroke-dasharray": "6 3" } : {};
}

/**
 * Round numbers between two ends, about four steps apart.
 * @param {number} low
 * @param {number} high
 * @returns {number[]}
 */
function ticksOf(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 4));
  const step = power * ([1, 2, 5].find((factor) => (high - low) / (factor * power) <= 5) ?? 10);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(10)));
}

/**
 * Curves over each other, by epoch from 1.
 * @param {string} title
 * @param {string} name of the axis that goes up
 * @param {number[][]} lines
 * @returns {HTMLElement}
 */
function overlay(title, name, lines) {
  const flat = lines.flat().filter(Number.isFinite);
  const [least, most] = flat.length ? [Math.min(...flat), Math.max(...flat)] : [0, 1];
  const air = 0.06 * (most - least) || 0.5;
  const [low, high] = [least - air, most + air];
  const epochs = Math.max(...lines.map((line) => line.length), 2);
  const across = (/** @type {number} */ epoch) => 52 + (296 * (epoch - 1)) / (epochs - 1);
  const up = (/** @type {number} */ value) => 180 - (170 * (value - low)) / (high - low);
  const picture = shape("svg", { class: "plot", viewBox: "0 0 360 220", role: "img", "aria-label": `${title} by epoch` });
  const columns = ticksOf(1, epochs).filter(Number.isInteger);
  const levels = ticksOf(low, high);
  const grid = [...columns.map((tick) => `M${across(tick)},10V180`), ...levels.map((tick) => `M52,${up(tick)}H348`)];
  picture.append(
    shape("path", { class: "grid", d: grid.join("") }),
    shape("path", { class: "axis", d: "M52,10V180H348" }),
    ...columns.map((tick) => shape("text", { x: across(tick), y: 194, "text-anchor": "middle" }, String(tick))),
    ...levels.map((tick) => shape("text", { x: 47, y: up(tick) + 4, "text-anchor": "end" }, String(tick))),
    shape("text", { class: "name", x: 200, y: 212, "text-anchor": "middle" }, "epoch"),
    shape("text", { class: "name", transform: "translate(12,95) rotate(-90)", "text-anchor": "middle" }, name),
    ...lines.map((line, number) => {
      const points = line.flatMap((value, i) => (Number.isFinite(value) ? [`${across(i + 1)},${up(value).toFixed(1)}`] : []));
      return shape("polyline", { class: `line s${number % 7}`, points: points.join(" "), ...dashOf(number) });
    }),
  );
  return element("figure", "", element("figcaption", title), picture);
}

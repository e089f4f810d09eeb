// Filters by data set, attack, defense, rho, scenario and profile, and a search of words.

/** @typedef {{element: HTMLElement, values: DOMStringMap, text: string | null, isGone: boolean}} Filtered */

const FILTERS = ["dataset", "attack", "defense", "rho", "scenario", "profile"];

/** @type {Filtered[] | null} */
let filtered = null;

/** All elements that filters may hide; found once for as many as there are. @returns {Filtered[]} */
function allFiltered() {
  filtered ??= [...document.querySelectorAll(".filtered")].map((element) => ({
    element: /** @type {HTMLElement} */ (element),
    values: /** @type {HTMLElement} */ (element).dataset,
    text: null,
    isGone: false,
  }));
  return filtered;
}

/**
 * Whether an element passes: it has the value of each filter, or is not about it.
 * @param {Filtered} one
 * @param {[string, string][]} chosen
 * @param {string[]} words
 */
function passes(one, chosen, words) {
  for (const [name, value] of chosen) {
    const own = one.values[name];
    if (own !== undefined && own !== value) return false;
  }
  if (words.length && one.element instanceof HTMLTableRowElement) {
    one.text ??= (one.element.textContent ?? "").toLowerCase();
    const text = one.text;
    return words.every((word) => text.includes(word));
  }
  return true;
}

/**
 * Hide what does not pass and say how many runs are left.
 * @param {URLSearchParams} values
 */
function applyFilters(values) {
  const chosen = /** @type {[string, string][]} */ (
    FILTERS.map((name) => [name, values.get(name) ?? ""]).filter(([, value]) => value)
  );
  const words = (values.get("q") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of allFiltered()) {
    const isGone = !passes(one, chosen, words);
    if (isGone !== one.isGone) one.element.classList.toggle("gone", isGone);
    one.isGone = isGone;
  }
  hideColumns(values.get("defense") ?? "");
  countRuns();
}

/** Rows of the table of runs that are laid out at once; a browser takes long over thousands. */
const MOST_ROWS = 300;

/** Whether the reader wants them all. */
let wantsAll = false;

/** Say how many runs pass, and show the first of them. */
function countRuns() {
  const table = document.getElementById("run-table");
  const rows = table instanceof HTMLTableElement ? [...table.tBodies[0].rows] : [];
  let left = 0;
  for (const row of rows) {
    if (!row.classList.contains("gone")) left += 1;
    row.classList.toggle("later", left > MOST_ROWS && !wantsAll);
  }
  const count = document.getElementById("count");
  if (count) count.textContent = `${left} of ${rows.length} runs`;
  const more = document.getElementById("more");
  if (!more) return;
  more.hidden = wantsAll || left <= MOST_ROWS;
  const text = more.querySelector("span");
  if (text) text.textContent = `The first ${MOST_ROWS} of ${left} runs are shown.`;
}

/** Let the reader have all rows. */
function startShowingAll() {
  document.querySelector("#more button")?.addEventListener("click", () => {
    wantsAll = true;
    countRuns();
  });
}

/**
 * In matrices a defense is a column.
 * @param {string} defense
 */
function hideColumns(defense) {
  for (const cell of document.querySelectorAll(".matrix td[data-defense]")) {
    const own = /** @type {HTMLElement} */ (cell).dataset.defense;
    cell.classList.toggle("faded", defense !== "" && own !== defense);
  }
}

/** Keep the form, the address and what is shown in step. */
function startFilters() {
  const form = document.getElementById("filters");
  if (!(form instanceof HTMLFormElement)) return;
  const fields = /** @type {(HTMLInputElement | HTMLSelectElement)[]} */ (
    [...form.elements].filter((field) => field.getAttribute("name"))
  );
  const toAddress = () => {
    const place = placeOf(location.hash);
    const kept = [...place.values].filter(([name]) => !fields.some((f) => f.name === name));
    place.values = new URLSearchParams(kept);
    for (const field of fields) if (field.value) place.values.set(field.name, field.value);
    history.replaceState(null, "", hashOf(place));
    applyFilters(place.values);
  };
  form.addEventListener("input", toAddress);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(toAddress));
  form.hidden = false;
  const box = form.querySelector("details");
  const narrow = matchMedia("(max-width: 40rem)");
  const fold = () => box?.toggleAttribute("open", !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();
}

/**
 * Fill the form from an address; a value that no run has is left out.
 * @param {URLSearchParams} values
 */
function fillForm(values) {
  const form = document.getElementById("filters");
  if (!(form instanceof HTMLFormElement)) return;
  for (const field of form.elements) {
    const input = /** @type {HTMLInputElement} */ (field);
    if (input.name) input.value = values.get(input.name) ?? "";
    if (field instanceof HTMLSelectElement && field.selectedIndex < 0) field.value = "";
  }
}

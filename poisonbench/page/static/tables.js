// Tables that sort by a click on a heading, and buttons that copy what stands beside them.

/**
 * The number that a cell begins with, and nothing for "-".
 * @param {string} text
 * @returns {number}
 */
function numberOf(text) {
  const match = /[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/i.exec(text);
  return match ? Number(match[0].replaceAll(",", "")) : NaN;
}

/**
 * Compare two cells: numbers by size, others as words; empty ones come last in either order.
 * @param {string} first
 * @param {string} second
 * @param {boolean} isNumber
 * @param {number} direction
 */
function compareCells(first, second, isNumber, direction) {
  if (!isNumber) return direction * first.localeCompare(second, "en", { numeric: true });
  const [one, two] = [numberOf(first), numberOf(second)];
  if (Number.isNaN(one) || Number.isNaN(two)) return Number(Number.isNaN(one)) - Number(Number.isNaN(two));
  return direction * (one - two);
}

/**
 * Sort the rows of a table by a column.
 * @param {HTMLTableElement} table
 * @param {number} column
 * @param {number} direction
 */
function sortTable(table, column, direction) {
  const heads = table.tHead?.rows[0].cells ?? [];
  const isNumber = heads[column].classList.contains("number");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: row.cells[column]?.textContent?.trim() ?? "" }));
  rows.sort((a, b) => compareCells(a.text, b.text, isNumber, direction));
  body.append(...rows.map(({ row }) => row));
  for (const head of heads) head.removeAttribute("aria-sort");
  if (table.id === "run-table") countRuns();
  heads[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
}

/**
 * Make a button of each heading of the tables of a part that are sortable.
 * @param {ParentNode} part
 */
function makeSortable(part) {
  for (const element of part.querySelectorAll("table.sortable")) {
    const table = /** @type {HTMLTableElement} */ (element);
    [...(table.tHead?.rows[0].cells ?? [])].forEach((head, column) => {
      if (head.classList.contains("tick")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
    });
  }
}

/** Sort when a heading is clicked. */
function startSorting() {
  document.addEventListener("click", (event) => {
    const head = /** @type {Element} */ (event.target).closest("table.sortable thead th");
    if (!(head instanceof HTMLTableCellElement) || head.classList.contains("tick")) return;
    const table = head.closest("table");
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    if (table) sortTable(table, head.cellIndex, direction);
  });
}

/**
 * Copy a text; where the browser refuses, mark it so that the reader can.
 * @param {HTMLElement} source
 * @returns {Promise<boolean>}
 */
async function copyText(source) {
  try {
    await navigator.clipboard.writeText(source.textContent ?? "");
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(source);
    const selection = getSelection();
    selection?.removeAllRanges();
    selection?.addRange(range);
    return document.execCommand("copy");
  }
}

/**
 * Show the copy buttons of a part.
 * @param {ParentNode} part
 */
function showCopying(part) {
  for (const button of part.querySelectorAll("button.copy")) {
    /** @type {HTMLButtonElement} */ (button).hidden = false;
  }
}

/** Let each copy button copy the text of its block. */
function startCopying() {
  document.addEventListener("click", async (event) => {
    const button = /** @type {Element} */ (event.target).closest("button.copy");
    const source = button?.closest(".export, .command")?.querySelector("pre");
    if (!button || !source) return;
    const name = button.textContent;
    button.textContent = (await copyText(source)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = name), 1500);
  });
}

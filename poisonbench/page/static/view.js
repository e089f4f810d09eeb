// Which part of the page is shown: the address after # says an anchor and, behind a ?, filters.

/** @typedef {{anchor: string, values: URLSearchParams}} Place */

/**
 * Read an address: "#runs?rho=0.6&q=hint".
 * @param {string} hash
 * @returns {Place}
 */
function placeOf(hash) {
  const [anchor, query = ""] = hash.replace(/^#/, "").split("?", 2);
  let decoded = anchor;
  try {
    decoded = decodeURIComponent(anchor);
  } catch {
    // A broken escape is no anchor of the page.
  }
  return { anchor: decoded || "overview", values: new URLSearchParams(query) };
}

/**
 * Write an address.
 * @param {Place} place
 * @returns {string}
 */
function hashOf(place) {
  const query = place.values.toString();
  return `#${place.anchor}${query ? `?${query}` : ""}`;
}

/**
 * Make elements of a page that a reader without scripts has from the start: thousands of them
 * would be slow to open.
 * @param {Element} page
 */
function unfold(page) {
  const folded = page.querySelector(":scope > noscript");
  if (!folded) return;
  folded.replaceWith(contentOf(folded));
  startPart(page);
}

/**
 * What stands in a noscript, which is text where scripts run.
 * @param {Element} folded
 * @returns {DocumentFragment}
 */
function contentOf(folded) {
  const template = document.createElement("template");
  template.innerHTML = folded.textContent ?? "";
  return template.content;
}

/**
 * Show the view, and in it the page, that an anchor is in.
 * @param {string} anchor
 */
function show(anchor) {
  const target = document.getElementById(anchor) ?? document.getElementById("overview");
  const view = target?.closest(".view") ?? document.getElementById("overview");
  const page = target?.closest(".page") ?? null;
  if (page) unfold(page);
  for (const other of document.querySelectorAll(".view.current, .page.current")) {
    if (other !== view && other !== page) other.classList.remove("current");
  }
  view?.classList.add("current");
  view?.classList.toggle("single", page !== null);
  page?.classList.add("current");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${view?.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (let outer = target; outer; outer = outer.parentElement?.closest("details") ?? null) {
    if (outer instanceof HTMLDetailsElement) outer.open = true;
  }
  if (target === view || target === page) window.scrollTo(0, 0);
  else target?.scrollIntoView();
}

/** Let the reader choose light, dark or the system's; kept for this file where that is allowed. */
function startTheme() {
  const button = document.getElementById("theme");
  if (!button) return;
  const names = ["system", "light", "dark"];
  let chosen = "system";
  try {
    chosen = localStorage.getItem("poisonbench-theme") ?? chosen;
  } catch {
    // Nothing is kept then.
  }
  const apply = () => {
    if (!names.includes(chosen)) chosen = "system";
    if (chosen === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.textContent = `Theme: ${chosen}`;
  };
  button.addEventListener("click", () => {
    chosen = names[(names.indexOf(chosen) + 1) % names.length];
    try {
      localStorage.setItem("poisonbench-theme", chosen);
    } catch {
      // As above.
    }
    apply();
  });
  apply();
  button.hidden = false;
}

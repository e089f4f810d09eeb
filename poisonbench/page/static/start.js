// What happens when the page opens, and whenever its address changes.

function follow() {
  const place = placeOf(location.hash);
  if (place.anchor === "chosen") showChosen((place.values.get("of") ?? "").split(/[ +]/));
  show(place.anchor);
  fillForm(place.values);
  applyFilters(place.values);
}

/** A link inside the page keeps the filters, so that the way back finds them. */
function keepFilters() {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const href = /** @type {Element} */ (event.target).closest("a[href^='#']")?.getAttribute("href");
    const kept = [...placeOf(location.hash).values].filter(([name]) => name !== "of");
    if (!href || href.includes("?") || !kept.length) return;
    event.preventDefault();
    location.hash = hashOf({ anchor: placeOf(href).anchor, values: new URLSearchParams(kept) });
  });
}

/**
 * Start what is in a part of the page that has come into being.
 * @param {ParentNode} part
 */
function startPart(part) {
  makeSortable(part);
  showCopying(part);
  filtered = null;
}

startTheme();
keepFilters();
startFilters();
startPart(document);
startSorting();
startCopying();
startComparing();
startShowingAll();
addEventListener("hashchange", follow);
// The browser's own jump to the anchor comes last and knows nothing of views.
addEventListener("load", () => setTimeout(() => show(placeOf(location.hash).anchor)));
follow();

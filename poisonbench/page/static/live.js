// The page as it is served during a sweep: asks for news, shows progress, and comes again.

/**
 * @param {number | null} seconds
 * @returns {string}
 */
function leftText(seconds) {
  if (seconds === null) return "time left not known";
  if (seconds < 90) return `about ${Math.round(seconds)} s of work left`;
  return seconds < 5400 ? `about ${Math.round(seconds / 60)} min of work left` : `about ${(seconds / 3600).toFixed(1)} h of work left`;
}

/**
 * One plan's bar, its jobs at work and its failures.
 * @param {any} plan
 * @returns {HTMLElement}
 */
function progressOf(plan) {
  const bar = /** @type {HTMLProgressElement} */ (element("progress"));
  bar.max = plan.total;
  bar.value = plan.states.done;
  bar.setAttribute("aria-label", `plan ${plan.plan}`);
  const counts = Object.entries(plan.states).filter(([, count]) => count).map(([state, count]) => `${count} ${state}`);
  const left = plan.states.done < plan.total ? `; ${leftText(plan.seconds_left)}` : "";
  const lines = plan.running.map((/** @type {string} */ title) => element("li", `running: ${title}`));
  for (const job of plan.failed) {
    const line = element("li", `failed: ${job.title}: ${job.reason}`);
    line.className = "job-failed";
    lines.push(line);
  }
  return element("div", "", element("p", `Sweep: ${plan.states.done} of ${plan.total} jobs done (${counts.join(", ")})${left}`), bar, element("ul", "", ...lines));
}

/** Ask for news every two seconds; a new digest means a new page. */
function startWatching() {
  const place = document.getElementById("progress");
  if (!place) return;
  let shown = "";
  const ask = async () => {
    try {
      const news = await (await fetch("/news")).json();
      if (news.digest !== place.dataset.digest) location.reload();
      const text = JSON.stringify(news.plans);
      if (text !== shown) place.replaceChildren(...news.plans.map(progressOf));
      shown = text;
    } catch {
      shown = "";
      place.replaceChildren(element("p", "The server has ended; what is shown stays."));
    }
    setTimeout(ask, 2000);
  };
  ask();
}

startWatching();

// What the pages do beyond plain HTML: they work without it.
"use strict";

// How fast counters rise, of which each fragment brings the latest.
const counted = new Map();

function showRates() {
  const now = performance.now();
  for (const cell of document.querySelectorAll("[data-rate]")) {
    const count = Number(cell.dataset.count);
    const before = counted.get(cell.dataset.rate);
    if (before) {
      const rate = Math.max(0, (1000 * (count - before.count)) / (now - before.at));
      cell.textContent = `${rate.toFixed(rate < 10 ? 1 : 0)} /s`;
    }
    counted.set(cell.dataset.rate, { count, at: now });
  }
}
showRates();

// What takes its time is fetched after the page.
for (const part of document.querySelectorAll("[data-later]")) {
  fetch(part.dataset.later)
    .then((response) => (response.ok && !response.redirected ? response.text() : null))
    .then((text) => { if (text !== null) part.innerHTML = text; })
    .catch(() => {}); // the link in it stays
}

// One fragment is fetched again and again, unless the reader stopped it or looks elsewhere.
for (const part of document.querySelectorAll("[data-live]")) {
  let paused = false;
  const button = document.querySelector(`[data-pause="${part.id}"]`);
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      [button.textContent, button.dataset.other] = [button.dataset.other, button.textContent];
    });
  }
  const lost = document.getElementById(part.dataset.lost);
  const renew = (text) => {
    // Who is at a link by keyboard stays there.
    const focused = part.contains(document.activeElement) && document.activeElement.getAttribute("href");
    part.innerHTML = text;
    if (focused) part.querySelector(`a[href="${focused.replaceAll('"', "")}"]`)?.focus();
    showRates();
  };
  const update = async () => {
    if (!paused && !document.hidden) {
      try {
        const response = await fetch(part.dataset.live);
        const isThere = response.ok && !response.redirected;
        if (isThere) renew(await response.text());
        lost.hidden = isThere;
      } catch {
        lost.hidden = false; // the next one may come through
      }
    }
    setTimeout(update, 1000 * part.dataset.seconds);
  };
  setTimeout(update, 1000 * part.dataset.seconds);
}

// A flush goes on step by step.
for (const form of document.querySelectorAll("[data-steps]")) {
  const progress = document.getElementById("wb-progress");
  const done = document.getElementById("wb-done");
  const problem = document.getElementById("wb-problem");
  const button = form.querySelector("button");
  const step = async () => {
    const response = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { Accept: "application/json" },
    });
    const isJson = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
    if (!isJson) throw new Error(`${response.status} ${response.statusText}`);
    const job = await response.json();
    if (job.problem) throw new Error(job.problem);
    if (job.over) return location.reload();
    progress.value = job.done;
    done.textContent = `${job.done} / ${job.total}`;
    return step();
  };
  const go = () => {
    problem.hidden = button.hidden = true;
    step().catch((error) => {
      problem.textContent = error.message;
      problem.hidden = button.hidden = false;
    });
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); go(); });
  go();
}

for (const all of document.querySelectorAll("[data-all]")) {
  all.addEventListener("change", () => {
    for (const box of document.querySelectorAll(`[name="${all.dataset.all}"][type=checkbox]`)) {
      box.checked = all.checked;
    }
  });
}

// Keeps the page up to date while it is looked at: figures from JSON, marked parts by loading the
// page again and taking those parts from it. Without JavaScript, reloading does the same.
"use strict";

const strip = document.querySelector("[data-figures]");

function text(name, value) {
  if (value === null) return "–";
  return name.endsWith("_ms") ? `${value.toFixed(2)} ms` : value.toLocaleString("en");
}

async function refreshFigures() {
  const response = await fetch(strip.dataset.figures);
  if (!response.ok) throw new Error(response.statusText);
  for (const [name, value] of Object.entries(await response.json())) {
    strip.querySelector(`[data-figure="${name}"]`).textContent = text(name, value);
  }
}

// A button that is pressed must still be there when it is let go of.
let pressed = false;
addEventListener("pointerdown", () => { pressed = true; });
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { pressed = false; });

async function refreshParts() {
  const parts = document.querySelectorAll("[data-live]");
  if (!parts.length) return;
  const response = await fetch(location.href);
  if (!response.ok) throw new Error(response.statusText);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  if (pressed) return;
  for (const part of parts) {
    const now = fresh.getElementById(part.id);
    // Not under the keyboard: a link that has the focus would lose it.
    if (now && now.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) {
      part.replaceChildren(...now.childNodes);
    }
  }
}

// What the page that comes next is to say, none that is loaded in the background may say before it.
let leaving = false;
addEventListener("submit", () => { leaving = true; });
addEventListener("pageshow", () => { leaving = false; });

async function refresh() {
  let pause = 1000;
  if (!document.hidden && !leaving) {
    try {
      await Promise.all([refreshFigures(), refreshParts()]);
      strip.classList.remove("away");
    } catch {
      strip.classList.add("away"); // the demo has ended, or starts again
      pause = 3000;
    }
  }
  setTimeout(refresh, pause);
}

if (strip) setTimeout(refresh, 1000);

// A player without a film: its time goes by, and where one is, how long one has watched and what
// one notes is saved while it does. Without JavaScript, the form has a button that saves.
"use strict";

const form = document.getElementById("lesson");
const slider = document.getElementById("position");
const notes = document.getElementById("notes");
const play = document.getElementById("play");
const saved = document.getElementById("saved");
const chapters = [...document.querySelectorAll("[data-seek]")];
const length = Number(slider.max);

let position = Number(form.dataset.position);
let playing = false;
let last = 0; // when the time was looked at

// What is not saved yet.
let changed = false;
let watched = 0;
let noted = false;

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function show() {
  slider.value = position;
  slider.setAttribute("aria-valuetext", clock(position));
  document.getElementById("clock").textContent = clock(position);
  const chapter = chapters.findLast((button) => button.dataset.seek <= position);
  document.getElementById("chapter").textContent = chapter.dataset.title;
  play.textContent = playing ? "Pause" : "Play";
}

function tick() {
  const now = performance.now();
  if (playing) {
    const passed = Math.min((now - last) / 1000, length - position);
    position += passed;
    watched += passed;
    changed = true;
    if (position >= length) pause();
    show();
  }
  last = now;
}

function pause() {
  playing = false;
  save();
}

function seek(to) {
  position = to;
  changed = true;
  show();
}

// Saving

function say(state, text) {
  saved.className = `chip ${state}`;
  saved.textContent = text;
}

function take() {
  const values = { position: Math.round(position * 10) / 10 };
  values.furthest = { $max: values.position };
  const seconds = Math.floor(watched);
  if (seconds) values.seconds = { $add: seconds };
  if (noted) values.notes = notes.value;
  watched -= seconds;
  changed = noted = false;
  return values;
}

async function send() {
  if (!changed) return;
  const values = take();
  let response;
  try {
    response = await fetch(form.dataset.progress, {
      method: "POST",
      keepalive: true, // it arrives also if the page is left now
      headers: {
        "Content-Type": "application/json",
        "X-CSRFToken": form.elements.csrfmiddlewaretoken.value,
      },
      body: JSON.stringify(values),
    });
  } catch {
    // It may have arrived or not. What was watched is rather counted too low than twice.
    changed = true;
    noted ||= "notes" in values;
    say("pending", "not saved: no connection");
    return;
  }
  if (!response.ok) {
    changed = true;
    noted ||= "notes" in values;
    watched += values.seconds?.$add ?? 0;
    say("pending", `not saved: ${response.status} ${response.statusText}`);
    return;
  }
  say("pending", "saved, pending");
  pending = true;
}

// One after the other, so that an earlier one does not arrive later.
let sending = Promise.resolve();

function save() {
  sending = sending.then(send);
  return sending;
}

let pending = false;

async function follow() {
  if (pending && !document.hidden) {
    try {
      const response = await fetch(form.dataset.state);
      const state = await response.json();
      if (pending && !state.pending) {
        pending = false;
        say("stored", "stored in the database");
      }
    } catch {
      // The demo has ended, or starts again: the next look will tell.
    }
  }
  setTimeout(follow, 500);
}

play.addEventListener("click", () => {
  playing = !playing && position < length;
  show();
  if (!playing) pause();
});
slider.addEventListener("input", () => seek(slider.valueAsNumber));
slider.addEventListener("change", save);
notes.addEventListener("input", () => { changed = noted = true; });
for (const button of chapters) {
  button.disabled = false;
  button.addEventListener("click", () => { seek(Number(button.dataset.seek)); save(); });
}
// Whoever leaves does not wait for an earlier one.
document.addEventListener("visibilitychange", () => { if (document.hidden) send(); });
addEventListener("pagehide", send);

let submitting = false;
form.addEventListener("submit", async (event) => {
  playing = false;
  if (submitting) return;
  event.preventDefault();
  await save();
  submitting = true;
  form.requestSubmit(event.submitter);
});

document.getElementById("save").hidden = true;
play.hidden = false;
show();
setInterval(tick, 100);
setInterval(save, 2000);
follow();

// Mode "Same person?": two pictures and a person's answer, which the program behind the page keeps.

import { element, show, visible, written } from "./cards.js";
import * as server from "./server.js";

const find = (id) => document.getElementById(id);
const PAIRS = 10;
const SAID = { yes: "Same person", no: "Different people", "cannot tell": "Cannot tell" };
// Pairs to come, the one that is shown, answers that can be taken back, and whether a request runs.
const state = { waiting: [], shown: null, given: [], busy: false, leave: null };

export const active = () => !find("same").hidden;

export function build(facts, enter, leave) {
  state.leave = leave;
  for (const node of document.querySelectorAll(".same-file")) node.textContent = visible(facts.file);
  for (const node of document.querySelectorAll(".asking")) node.hidden = false;
  find("ask").hidden = false;
  find("ask").addEventListener("click", () => (active() ? leave() : enter()));
  find("same-back").addEventListener("click", leave);
  find("same-undo").addEventListener("click", undo);
  for (const button of find("same-answers").children) button.addEventListener("click", () => answer(button.dataset.answer));
  find("same-what").open = !facts.answered;
  count(facts);
}

export function open() {
  toggle(true);
  find("same").focus({ preventScroll: true });
  scrollTo({ top: 0 });
  if (!state.shown) next();
}

export function close() {
  if (active()) toggle(false);
}

// Returns whether a key means something here.
export function key(event) {
  const answers = { y: "yes", n: "no", c: "cannot tell" };
  // A key that is held down must not answer pairs that nobody has looked at.
  if (event.repeat) return event.key in answers || event.key === "u";
  if (event.key in answers) answer(answers[event.key]);
  else if (event.key === "u") undo();
  else if (event.key === "g" || event.key === "p" || event.key === "Escape") state.leave();
  else return false;
  return true;
}

function toggle(on) {
  find("same").hidden = !on;
  find("columns").hidden = on;
  find("ask").setAttribute("aria-pressed", String(on));
  find("skip").href = on ? "#same" : "#main";
}

function tell(error) {
  if (error && !(error instanceof server.Refusal)) console.error(error);
  find("same-error").textContent = error ? visible(error.message) : "";
  find("same-error").hidden = !error;
}

// One request at a time: a second click or key while an answer is being kept does nothing.
async function alone(work) {
  if (state.busy) return;
  state.busy = true;
  let gone = false;
  find("busy").classList.add("on");
  try {
    await work();
  } catch (error) {
    tell(error);
    gone = error.status === 404; // an entry was deleted meanwhile
  } finally {
    state.busy = false;
    find("busy").classList.remove("on");
  }
  if (gone) {
    state.shown = null;
    next(true);
  }
}

const next = (told = false) => alone(() => advance(told));

async function advance(told = false) {
  if (!state.waiting.length) {
    find("same-answers").classList.add("waiting");
    if (!state.shown && !told) find("same-why").textContent = "Choosing pairs. In a large gallery the first time takes some seconds.";
    try {
      const answer = await server.pairs(PAIRS);
      state.waiting = answer.pairs;
      count(answer);
    } finally {
      find("same-answers").classList.remove("waiting");
    }
  }
  if (!told) tell(null);
  state.shown = state.waiting.shift() ?? null;
  draw();
}

function answer(said) {
  const pair = state.shown;
  if (!pair) return;
  alone(async () => {
    const kept = await server.answer({ first: pair.first.key, second: pair.second.key, same: said });
    state.given.push({ pair, said, before: kept.before });
    count(kept);
    await advance();
  });
}

function undo() {
  const last = state.given.at(-1);
  if (!last) return;
  alone(async () => {
    const { pair, said, before } = last;
    try {
      count(await server.undo({ first: pair.first.key, second: pair.second.key, given: said, before }));
    } finally {
      state.given.pop(); // one that cannot be taken back is not tried again
    }
    tell(null);
    if (state.shown) state.waiting.unshift(state.shown);
    state.shown = pair;
    draw(`You had said: ${SAID[said]}.`);
  });
}

function count(facts) {
  const parts = [["same", facts.same], ["different", facts.different], ["cannot tell", facts.untold]];
  const kinds = parts.filter(([, number]) => number).map(([name, number]) => `${number.toLocaleString("en")} ${name}`);
  find("same-count").textContent = [`${facts.answered.toLocaleString("en")} answered`, ...kinds].join(" · ");
  const left = [["of the same person", facts.needed - facts.same], ["of different people", facts.needed - facts.different]];
  const lacking = left.filter(([, number]) => number > 0).map(([name, number]) => `${number} more ${name}`);
  find("same-needed").textContent = lacking.length
    ? `An adaptation takes any number of answers. A calibration needs ${facts.needed} of each kind: ${lacking.join(" and ")}.`
    : "There are enough answers for an adaptation and for a calibration; more make both better.";
}

function place(id, entry, which) {
  const where = entry.camera === null ? "camera unknown" : `camera ${server.cameraName(entry.camera)}`;
  const when = entry.time === null ? [] : [written(entry.time)];
  const image = find(id);
  image.alt = visible([`${which} picture`, where, ...when].join(", "));
  image.removeAttribute("src"); // the last pair's picture must not stand beside this one's
  show(image, server.picture(entry.key));
  // A name often holds who somebody takes this person for, so it is shown only to a mouse that waits for it.
  image.title = visible(entry.key);
  find(`${id}-facts`).replaceChildren(...[where, ...when].map((line) => element("span", "", line)));
}

function draw(note = "") {
  const pair = state.shown;
  find("same-undo").disabled = !state.given.length;
  find("same-ask").hidden = !pair;
  find("same-none").hidden = Boolean(pair);
  if (!pair) {
    find("same-none").textContent = "No further pair is worth asking about now. Your answers are kept; add photographs, or adapt the encoder and ask again.";
    return;
  }
  place("same-first", pair.first, "First");
  place("same-second", pair.second, "Second");
  find("same-why").textContent = note || `Why this pair? ${pair.why}`;
  // The next pair's pictures are asked for now, so that nobody waits for them.
  for (const { first, second } of state.waiting.slice(0, 1)) for (const { key } of [first, second]) new Image().src = server.picture(key);
}

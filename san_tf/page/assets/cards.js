// Cards of people. Names and tags come from a gallery, so they are set as text, never as markup.

import * as server from "./server.js";

// Control characters, lone surrogates, and characters that reorder or hide others are shown as numbers: different
// names must not look alike, and no name may reorder the text around it.
const UNSEEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\p{Cs}]/gu;
export const visible = (text) => text.replace(UNSEEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

export function element(name, className = "", ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.map((part) => (typeof part === "string" ? visible(part) : part)));
  return made;
}

export function written(seconds) {
  const moment = new Date(seconds * 1000);
  if (Number.isNaN(moment.getTime())) return String(seconds);
  return moment.toISOString().replace("T", " ").replace(/\.\d+Z$/, "");
}

export function show(image, source) {
  const frame = image.parentElement;
  frame.classList.remove("missing");
  image.onerror = () => {
    frame.dataset.missing = "no picture";
    frame.classList.add("missing");
  };
  if (source) image.src = source;
  else image.onerror();
}

function framed(className, source, lazy) {
  const image = element("img");
  image.alt = "";
  if (lazy) image.loading = "lazy";
  image.decoding = "async";
  image.draggable = false;
  const frame = element("span", className, image);
  if (source !== undefined) show(image, source);
  return frame;
}

export function mark(right) {
  if (right === null || right === undefined) return "";
  const made = element("span", `mark ${right ? "right" : "wrong"}`, right ? "✓" : "✕");
  made.title = right ? "the same person" : "another person";
  return made;
}

function where(item) {
  const lines = [];
  if (item.camera !== null) lines.push(`camera ${visible(server.cameraName(item.camera))}`);
  if (item.time !== null) lines.push(...written(item.time).split(" "));
  if (item.tags.length) lines.push(item.tags.join(", "));
  return lines;
}

// Probability of the same person in whole per cent; the ends are never told as certain.
export function chance(probability) {
  if (probability === null || probability === undefined) return null;
  const percent = Math.round(100 * probability);
  return percent < 1 ? "< 1 %" : percent > 99 ? "> 99 %" : `${percent} %`;
}

function spoken(item) {
  const parts = item.rank ? [`rank ${item.rank}`, `score ${item.score.toFixed(3)}`] : [item.key];
  if (chance(item.probability)) parts.push(`same person: ${chance(item.probability)}`);
  if (item.right !== null && item.right !== undefined) parts.push(item.right ? "the same person" : "another person");
  return [...parts, ...where(item)].join(", ");
}

// A card: a hit has rank, mark and score; an entry of the gallery has none.
export function card(item, textures) {
  const made = element("button", item.rank ? "card" : "card plain");
  made.type = "button";
  made.dataset.key = item.key;
  made.title = visible(item.key);
  made.setAttribute("aria-label", visible(spoken(item)));
  if (item.rank) {
    const score = element("span", "score", item.score.toFixed(3));
    score.title = "score: cosine similarity of the embeddings";
    made.append(element("span", "head", element("span", "rank", String(item.rank)), mark(item.right), score));
    const bar = element("span", "bar");
    bar.style.setProperty("--score", Math.max(0, item.score).toFixed(4));
    made.append(bar);
    if (item.right !== null) made.classList.add(item.right ? "right" : "wrong");
  }
  made.append(framed("crop", item.picture ? server.picture(item.key) : null, true));
  // Textures take the encoder's time, so they are requested only when they are visible.
  if (textures && item.picture) made.append(framed("painted", server.texture(item), true));
  const probable = chance(item.probability);
  const lines = item.rank && probable ? [element("span", "chance", `${probable} same person`)] : [];
  made.append(element("span", "facts", ...lines, ...where(item).map((line) => element("span", "", line))));
  return made;
}

export function strip(hits) {
  return hits.map((hit) => element("i", hit.right === null ? "" : hit.right ? "right" : "wrong"));
}

const best = (answer) => chance(Math.max(0, ...answer.hits.map((hit) => hit.probability ?? 0)));

export function summary(answer, facts, reranked) {
  const marked = answer.hits.filter((hit) => hit.right !== null);
  const first = marked.find((hit) => hit.right);
  const nobody = answer.nobody && answer.problem ? `the query ${answer.problem}, so its hits mean nothing`
    : answer.nobody ? `the best hit shows the person with a probability of ${best(answer)}` : "";
  const parts = [nobody, reranked ? "re-ranked" : "", `${Math.max(1, Math.round(answer.seconds * 1000))} ms`];
  if (marked.length) {
    const right = marked.filter((hit) => hit.right).length;
    parts.push(`${right} of ${answer.hits.length} right`);
    parts.push(first ? `the first at rank ${first.rank}` : "none of the same person");
  } else if (facts.identities) {
    parts.push("the query's identity is unknown: no marks");
  }
  return parts.filter(Boolean).join(" · ");
}

// Controls of the left column: filters and ranking.

import { element, visible } from "./cards.js";
import * as server from "./server.js";

const find = (id) => document.getElementById(id);
const checked = (id) => [...find(id).querySelectorAll("input:checked")].map((box) => box.value);

function chip(value, text, change) {
  const box = element("input");
  box.type = "checkbox";
  box.value = value;
  box.addEventListener("change", change);
  return element("label", "", box, element("span", "", text));
}

export function build(facts, change) {
  find("cameras").replaceChildren(...facts.cameras.map((camera) => chip(camera, visible(server.cameraName(camera)), change)));
  find("tags").replaceChildren(...facts.tags.map((tag) => chip(tag, tag, change)));
  find("camera-box").hidden = !facts.cameras.length;
  find("time-box").hidden = !facts.times;
  find("tag-box").hidden = !facts.tags.length;
  find("filters").hidden = !facts.cameras.length && !facts.times && !facts.tags.length;
  for (const id of ["others", "since", "until", "top", "rerank"]) find(id).addEventListener("change", change);
  find("first").addEventListener("change", () => { find("rerank").checked = true; change(); });
  find("clear").addEventListener("click", () => { clear(); change(); });
  if (matchMedia("(max-width: 820px)").matches) find("filters").open = find("ranking").open = false;
}

function clear() {
  for (const box of find("filters").querySelectorAll("input:checked")) box.checked = false;
  find("since").value = find("until").value = "";
}

// Times are shown and read as UTC, as in the gallery.
function seconds(id) {
  const moment = Date.parse(`${find(id).value}Z`);
  return Number.isNaN(moment) ? null : moment / 1000;
}

export function where(query) {
  const own = query && find("others").checked ? query.camera : null;
  const wanted = {
    cameras: checked("cameras").map(Number),
    excluded_cameras: own === null || own === undefined ? [] : [own],
    since: seconds("since"),
    until: seconds("until"),
    tags: checked("tags"),
  };
  const active = wanted.cameras.length + wanted.tags.length + (wanted.since !== null) + (wanted.until !== null)
    + find("others").checked;
  find("active").hidden = find("clear").hidden = !active;
  find("active").textContent = String(active);
  return wanted;
}

export function ranking() {
  return { top: Number(find("top").value), rerank: find("rerank").checked ? Number(find("first").value) : 0 };
}

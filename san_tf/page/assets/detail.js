// Dialog that compares the query and a hit, with their textures.

import { chance, element, mark, show, visible, written } from "./cards.js";
import * as server from "./server.js";

const find = (id) => document.getElementById(id);
const dialog = find("detail");
const canvas = find("difference");
const context = canvas.getContext("2d", { willReadFrequently: true });
let shown = null; // { query, hits, place, textures }

export function open(query, hits, place, textures, follow) {
  shown = { query, hits, place, textures, follow };
  draw();
  if (!dialog.open) dialog.showModal();
}

function draw() {
  const { query, hits, place, textures } = shown;
  const hit = hits[place];
  find("detail-title").replaceChildren(`Rank ${hit.rank}`, mark(hit.right));
  for (const node of dialog.querySelectorAll(".hint.textured")) node.hidden = !textures;
  dialog.querySelector(".compare").classList.toggle("bare", !textures);
  show(find("left-picture"), query.url ?? server.picture(query.key));
  show(find("right-picture"), hit.picture ? server.picture(hit.key) : null);
  clear();
  if (textures) {
    show(find("left-texture"), server.texture(query));
    show(find("right-texture"), hit.picture ? server.texture(hit) : null);
    compare(hit.key);
  }
  const facts = [["Score", hit.score.toFixed(4)], ["Same person", chance(hit.probability)], ["Camera", hit.camera === null ? null : visible(server.cameraName(hit.camera))], ["Name", hit.key]];
  facts.push(["Time", hit.time === null ? null : `${written(hit.time)} UTC`], ["Identity", hit.pid]);
  facts.push(["Tags", hit.tags.length ? hit.tags.join(", ") : null]);
  const known = facts.filter(([, value]) => value !== null);
  find("detail-facts").replaceChildren(
    ...known.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", String(value))]),
  );
  find("previous").disabled = place === 0;
  find("next").disabled = place === hits.length - 1;
}

function clear() {
  context.clearRect(0, 0, canvas.width, canvas.height);
}

// Brightness of a texel: the mean difference of its colours, full at a third of the range.
async function compare(key) {
  const [left, right] = [find("left-texture"), find("right-texture")];
  try {
    await Promise.all([left.decode(), right.decode()]);
  } catch {
    return; // there is no texture, or another was requested meanwhile
  }
  if (!shown || shown.hits[shown.place].key !== key) return;
  canvas.width = left.naturalWidth;
  canvas.height = left.naturalHeight;
  const pixels = (image) => {
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };
  const [a, b] = [pixels(left), pixels(right)];
  for (let at = 0; at < a.data.length; at += 4) {
    let sum = 0;
    for (let color = 0; color < 3; color += 1) sum += Math.abs(a.data[at + color] - b.data[at + color]);
    const level = Math.min(1, sum / 255);
    a.data[at] = 24 + 231 * level;
    a.data[at + 1] = 32 + 160 * level * level;
    a.data[at + 2] = 48 + 20 * level;
    a.data[at + 3] = 255;
  }
  context.putImageData(a, 0, 0);
}

function step(by) {
  const place = shown.place + by;
  if (place < 0 || place >= shown.hits.length) return;
  shown.place = place;
  draw();
}

function follow() {
  const hit = shown.hits[shown.place];
  dialog.close();
  shown.follow(hit);
}

find("previous").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
find("close").addEventListener("click", () => dialog.close());
find("follow").addEventListener("click", follow);
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === "q") follow();
});

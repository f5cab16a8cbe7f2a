// The page: a gallery to choose a query from, or the hits of a query.

import { card, show, strip, summary, visible, written } from "./cards.js";
import * as detail from "./detail.js";
import * as filters from "./filters.js";
import * as keys from "./keys.js";
import * as server from "./server.js";
import * as same from "./same.js";
import { toggle as toggleTheme } from "./theme.js";

const find = (id) => document.getElementById(id);
const PAGE = 60;
const state = { facts: null, query: null, items: [], asked: null };

const textures = () => state.facts.paints && find("textures").checked;

function tell(error) {
  if (error?.name === "AbortError") return;
  if (error && !(error instanceof server.Refusal)) console.error(error);
  find("error").textContent = error ? visible(error.message) : "";
  find("error").hidden = !error;
}

// One request at a time: a newer one cancels the older one.
async function asking(work) {
  state.asked?.abort();
  const control = state.asked = new AbortController();
  find("busy").classList.add("on");
  find("cards").classList.add("stale");
  try {
    const answer = await work(control.signal);
    if (state.asked !== control) return undefined;
    tell(null);
    return answer;
  } catch (error) {
    if (state.asked === control) tell(error);
    return undefined;
  } finally {
    if (state.asked === control) {
      find("busy").classList.remove("on");
      find("cards").classList.remove("stale");
    }
  }
}

function question() {
  const { query } = state;
  const who = query.upload ? { upload: query.upload, pid: query.pid } : { key: query.key };
  return { ...who, ...filters.ranking(), where: filters.where(query) };
}

function place(items, more = false) {
  state.items = more ? [...state.items, ...items] : items;
  const made = items.map((item) => {
    const one = document.createElement("li");
    one.append(card(item, textures() && item.rank));
    return one;
  });
  if (more) find("cards").append(...made);
  else find("cards").replaceChildren(...made);
  find("cards").classList.toggle("textured", Boolean(state.query) && textures());
  const first = find("cards").querySelector(".card");
  if (first && !more) keys.focusable(first);
}

async function refresh() {
  await (state.query ? searchNow() : browse());
}

async function searchNow() {
  const answer = await asking((signal) => server.search(question(), signal));
  if (!answer) return;
  if (answer.query) Object.assign(state.query, answer.query);
  drawQuery();
  place(answer.hits);
  const many = answer.hits.length;
  find("title").textContent = !many ? "No hits" : answer.nobody ? "Nobody here" : `The ${many} nearest`;
  find("subtitle").textContent = many ? summary(answer, state.facts, filters.ranking().rerank > 0) : "";
  find("strip").replaceChildren(...strip(answer.hits));
  find("strip").hidden = !answer.hits.some((hit) => hit.right !== null);
  find("empty").hidden = many > 0;
  find("empty").textContent = "Nothing in the gallery passes these filters.";
  find("export").hidden = !many;
  find("textures-box").hidden = !state.facts.paints;
  find("more").hidden = true;
}

async function browse(more = false) {
  const start = more ? state.items.length : 0;
  const wanted = { where: filters.where(null), start, limit: PAGE };
  const items = await asking((signal) => server.entries(wanted, signal));
  if (!items) return;
  drawQuery();
  place(items, more);
  find("title").textContent = "Choose a query";
  find("subtitle").textContent = "Drop a crop anywhere on the page, or choose one of the gallery.";
  find("empty").hidden = state.items.length > 0;
  find("empty").textContent = state.facts.entries
    ? "Nothing in the gallery passes these filters."
    : "The gallery is empty; add photographs with san-tf gallery add.";
  find("more").hidden = items.length < PAGE;
  find("strip").hidden = find("export").hidden = find("textures-box").hidden = true;
}

function drawQuery() {
  const { query } = state;
  find("zone").hidden = Boolean(query);
  find("query").hidden = !query;
  find("others").closest("label").hidden = !query || query.camera === null;
  if (!query) return;
  const shown = query.upload ?? query.key;
  if (find("query").dataset.shown !== shown) {
    find("query").dataset.shown = shown;
    show(find("query-picture"), query.url ?? (query.picture === false ? null : server.picture(query.key)));
    find("query-texture").parentElement.hidden = !state.facts.paints || query.picture === false;
    if (state.facts.paints && query.picture !== false) show(find("query-texture"), server.texture(query));
  }
  find("query-name").textContent = visible(query.name ?? query.key);
  find("pid-label").hidden = !query.upload || !state.facts.identities;
  find("pid").value = query.pid ?? "";
  const facts = [];
  if (query.camera !== null && query.camera !== undefined) facts.push(`camera ${visible(server.cameraName(query.camera))}`);
  if (query.time) facts.push(written(query.time));
  if (!query.upload && query.pid !== null && query.pid !== undefined) facts.push(`identity ${query.pid}`);
  find("query-facts").textContent = facts.join(" · ");
}

function ask(remember = true) {
  if (!state.facts.answers) return;
  if (remember) history.pushState({ same: true }, "", `${location.pathname}#same`);
  same.open();
}

// To the query that was chosen, or what the address names.
function arrive(was) {
  if ((was?.same || location.hash === "#same") && state.facts.answers) ask(false);
  else choose(was?.query?.key || was?.query?.upload ? was.query : hashed(), false);
}

function choose(query, remember = true) {
  same.close();
  state.query = query;
  if (remember) {
    const hash = !query ? "" : query.upload ? "#upload" : `#${new URLSearchParams({ key: query.key })}`;
    history.pushState({ query }, "", `${location.pathname}${hash}`);
  }
  refresh();
}

const follow = (key) => {
  const item = state.items.find((one) => one.key === key);
  if (item) choose({ key, camera: item.camera, pid: item.pid, time: item.time, picture: item.picture });
  scrollTo({ top: 0 });
};

const compare = (at) => {
  if (state.query && state.items[at]) {
    detail.open(state.query, state.items, at, state.facts.paints, (hit) => follow(hit.key));
  }
};

// File names of Market-1501 hold identity and camera.
function named(file) {
  const found = /^(-?\d+)_c(\d+)/.exec(file.name ?? "");
  return { pid: found && Number(found[1]) > 0 ? Number(found[1]) : null, camera: found ? Number(found[2]) : null };
}

async function take(file) {
  if (!file) return;
  if (file.size > state.facts.upload_bytes) {
    tell(new server.Refusal(`${file.name} has more than ${Math.floor(state.facts.upload_bytes / 2 ** 20)} MB; choose a smaller file.`));
    return;
  }
  const upload = await asking((signal) => server.upload(file, signal));
  if (upload) choose({ upload, name: file.name || "pasted picture", url: URL.createObjectURL(file), ...named(file) });
}

async function carryAway(kind) {
  try {
    const blob = await server.exported(kind, question(), textures());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `ranked.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    tell(null);
  } catch (error) {
    tell(error);
  }
}

function hashed() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  return key ? { key, camera: null } : null;
}

function listen() {
  const pick = () => find("file").click();
  find("zone").addEventListener("click", pick);
  find("again").addEventListener("click", pick);
  find("back").addEventListener("click", () => choose(null));
  find("more").addEventListener("click", () => browse(true));
  find("file").addEventListener("change", () => { take(find("file").files[0]); find("file").value = ""; });
  find("textures").addEventListener("change", refresh);
  find("pid").addEventListener("change", () => {
    state.query.pid = find("pid").value === "" ? null : Math.trunc(Number(find("pid").value));
    refresh();
  });
  find("cards").addEventListener("click", (event) => {
    const chosen = event.target.closest(".card");
    if (!chosen) return;
    keys.focusable(chosen);
    if (state.query) compare(state.items.findIndex((item) => item.key === chosen.dataset.key));
    else follow(chosen.dataset.key);
  });
  for (const button of find("export").children) button.addEventListener("click", () => carryAway(button.dataset.export));
  addEventListener("popstate", (event) => arrive(event.state));
  addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
  let depth = 0;
  const over = (by) => (event) => {
    event.preventDefault();
    depth = Math.max(0, depth + by);
    find("overlay").hidden = depth === 0;
  };
  addEventListener("dragenter", over(1));
  addEventListener("dragleave", over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    over(-depth)(event);
    take(event.dataTransfer.files[0]);
  });
  const click = (id) => () => find(id).click();
  keys.listen({
    follow, compare, asking: same.active, answer: same.key, p: () => ask(), o: pick, g: () => choose(null), t: click("textures"), r: click("rerank"), d: toggleTheme, "?": click("keys"),
    f: () => { find("filters").open = true; find("filters").querySelector("input, summary").focus(); },
    e: () => find("export").querySelector("button").focus(),
  });
}

try {
  state.facts = await server.gallery();
  server.nameCameras(state.facts.camera_names);
  const { facts } = state;
  find("name").textContent = visible(facts.name);
  find("size").textContent = [
    `${facts.entries.toLocaleString("en")} entries`,
    facts.cameras.length ? `${facts.cameras.length} cameras` : "",
    `encoder ${facts.model}`,
  ].filter(Boolean).join(" · ");
  document.title = `${visible(facts.name)} · san_tf`;
  find("no-textures").hidden = facts.paints;
  filters.build(facts, refresh);
  if (facts.answers) same.build(facts.answers, ask, () => choose(state.query));
  listen();
  if (history.state?.query?.upload) history.replaceState(null, "");
  arrive(history.state);
} catch (error) {
  tell(error);
}

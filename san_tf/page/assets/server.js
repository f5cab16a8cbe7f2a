// Requests to the program behind the page. It refuses with one sentence.

// Names of the cameras that have one, by number.
const cameraNames = {};
export const nameCameras = (names) => Object.assign(cameraNames, names);
export const cameraName = (number) => cameraNames[number] ?? String(number);

export class Refusal extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The program behind this page does not answer; is it still running in its terminal?");
  }
  if (response.ok) return response;
  let sentence = `The program behind this page answered ${response.status}.`;
  try {
    sentence = (await response.json()).error ?? sentence;
  } catch { /* not JSON */ }
  throw new Refusal(sentence, response.status);
}

function post(path, question, signal) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(question), signal });
}

export const gallery = async () => (await ask("/api/gallery")).json();
export const entries = async (question, signal) => (await (await post("/api/entries", question, signal)).json()).entries;
export const search = async (question, signal) => (await post("/api/search", question, signal)).json();

export async function upload(file, signal) {
  const headers = { "content-type": "application/octet-stream" };
  return (await (await ask("/api/uploads", { method: "POST", headers, body: file, signal })).json()).upload;
}

export const pairs = async (count) => (await post("/api/pairs", { count })).json();
export const answer = async (given) => (await post("/api/answers", given)).json();
export const undo = async (given) => (await post("/api/answers/undo", given)).json();

export async function exported(kind, question, textures) {
  const response = await post(`/api/export/${kind}${kind === "png" ? `?textures=${textures}` : ""}`, question);
  return response.blob();
}

const named = (path, name, value) => `${path}?${new URLSearchParams({ [name]: value })}`;
export const picture = (key) => named("/api/picture", "key", key);
export const texture = (query) => query.upload
  ? named("/api/upload-texture", "upload", query.upload)
  : named("/api/texture", "key", query.key);

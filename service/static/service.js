// All that the page asks of the service. The key, if one is needed, lives as long as the tab and in no address.

import { closed } from "./dialogs.js";
import { $, alertIn, element, markPixels, onceInSight, sentence } from "./dom.js";

const KEY = "hebbsearch key"; // in the session storage
const NEAR = "400px"; // so far beyond the window pictures are fetched
const PASSING = [429, 502, 503, 504]; // statuses of a service that will answer later
const LONGEST_WAIT = 30; // seconds
const MOST_BROKEN = 3;
const NO_KEY = "A key is needed; the button Key asks for it."; // the service says how programs send one
const MOST_AT_ONCE = 10_000; // images in one request

let entering = null; // promise of the key that is being asked for: all who need one wait for the same

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/**
 * A piece of work, which can be undone as a whole: what requests change that are given it as the option `work` has its
 * name in common, and the `names` of that, by which each can be undone, lie in it then.
 */
export function pieceOfWork() {
  const bytes = crypto.getRandomValues(new Uint8Array(8)); // no UUID: those need HTTPS
  return { together: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""), names: [] };
}

/** JSON from the service, or null where it has nothing to say; throws an Error whose message a person can act on. */
export async function ask(address, options) {
  const response = await send(address, options);
  if (response.ok && response.headers.has("X-Batch")) options?.work?.names.push(response.headers.get("X-Batch"));
  if (response.status === 204) return null;
  const body = await response.json().catch((error) => {
    if (options?.signal?.aborted) throw error;
    if (response.ok) throw new Error("The answer was cut short. Try again.");
    return {};
  });
  if (!response.ok) {
    const detail = response.status === 401 ? NO_KEY : body.detail;
    throw Object.assign(new Error(detail ?? `The service answered with status ${response.status}.`), {
      status: response.status,
      retryAfter: Number(response.headers.get("Retry-After")), // seconds, 0 where it does not say
    });
  }
  return body;
}

/** Options of a request that has a value as its body. */
export const json = (method, value) => ({
  method,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

/**
 * Give an image a label, or none (null); resolves to what is known of it then. `source`: how the label came; `was`:
 * only if that is its label, or, empty, if it has none.
 */
export function relabel(id, label, { source, was } = {}) {
  const only = was === undefined ? "" : `?${new URLSearchParams({ was })}`;
  return ask(`images/${id}${only}`, json("PATCH", label === null ? { label } : { label, source }));
}

/**
 * Give many images one label, or none, as `relabel` does; `tell` hears after each request {changed, left} of the ids
 * that have it now and of those that could not have it, {id, reason}. `work`: as of `ask`; `send` is that, or like it.
 */
export function relabelAll(ids, label, { source, was, work = pieceOfWork() }, tell, send = ask) {
  const request = (some) => send("images", { ...json("PATCH", { ids: some, label, source, was }), work });
  return inParts(ids, request, tell);
}

/** Do something to many images, so many at a time as one request may name; `tell` as of `relabelAll`. */
export async function inParts(ids, request, tell) {
  for (let at = 0; at < ids.length; at += MOST_AT_ONCE) {
    const some = ids.slice(at, at + MOST_AT_ONCE);
    const { left } = await request(some);
    const kept = new Set(left.map(({ id }) => id));
    tell({ changed: some.filter((id) => !kept.has(id)), left });
  }
}

/**
 * As `ask`, but again while the service is full or does not answer, until `signal` is aborted; `say` is told of each
 * wait. A connection that breaks each time although the service is there is this request's own fault.
 */
export async function askPatiently(address, options, { signal, say }) {
  for (let wait = 1, broken = 0; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
    try {
      return await ask(address, options);
    } catch (error) {
      if (error.status !== undefined && !PASSING.includes(error.status)) throw error;
      if (error.status === undefined && (await isThere()) && ++broken === MOST_BROKEN) throw error;
      const seconds = error.retryAfter || wait;
      say(`${sentence(error.message)} Trying again in ${seconds} s.`);
      await pause(seconds, signal);
    }
  }
}

const isThere = () =>
  fetch("health/live").then(
    ({ ok }) => ok,
    () => false,
  );

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const timer = setTimeout(resolve, 1000 * seconds);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal.addEventListener("abort", stop, { once: true });
  });
}

/** The answer to a request with the key, which is asked for where the service wants another. */
async function send(address, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = new Headers(options.headers);
  if (key !== null) headers.set("Authorization", `Bearer ${key}`);
  if (options.work) headers.set("X-Batch", options.work.together);
  let response;
  try {
    response = await fetch(address, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  if (response.status !== 401) return response;
  const { detail } = await response
    .clone()
    .json()
    .catch(() => ({}));
  return (await anotherKey(key, detail)) ? send(address, options) : response;
}

/** Whether there is another key than the one that was refused, or a person enters one. */
async function anotherKey(refused, detail) {
  if (sessionStorage.getItem(KEY) !== refused) return true;
  const words = refused === null ? "A key is needed here." : detail;
  entering ??= enterKey(words).finally(() => (entering = null));
  return entering;
}

/** Ask for the key; whether one was entered or forgotten. */
async function enterKey(detail = "") {
  const dialog = $("key");
  $("key-text").value = "";
  $("forget").hidden = !hasKey();
  alertIn(dialog, detail);
  return (await closed(dialog)) !== "";
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key-text").value.trim());
  $("key-text").value = "";
  $("key").close("entered");
});
$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  $("key").close("forgotten");
});
$("key-cancel").addEventListener("click", () => $("key").close(""));
$("key-button").addEventListener("click", async () => {
  if (await enterKey()) location.reload(); // what is on the page may not be for this key, or not be all
});

// --- pictures -----------------------------------------------------------------------------------

const addresses = new WeakMap(); // image -> what it will show
const whenNear = onceInSight(NEAR);

/** An image of the service, loaded when it comes into sight. */
export function picture(address) {
  const image = element("img", { draggable: false, alt: "", loading: "lazy" });
  image.addEventListener("load", () => markPixels(image));
  if (hasKey()) {
    addresses.set(image, address);
    whenNear(image, () => fetchPicture(image, addresses.get(image))); // an <img> sends no key
  } else image.src = address;
  return image;
}

/** Show a picture of the service in an image that is there already. */
export function showPicture(image, address) {
  addresses.set(image, address);
  image.removeAttribute("src");
  if (hasKey()) fetchPicture(image, address);
  else image.src = address;
}

async function fetchPicture(image, address) {
  const source = await blobAddress(address).catch(() => null);
  if (source === null || addresses.get(image) !== address) return; // it shows another by now
  image.addEventListener("load", () => URL.revokeObjectURL(source), { once: true });
  image.src = source;
}

/** A file of the service under an address of this tab, to be revoked. */
export async function blobAddress(address) {
  const response = await send(address);
  if (!response.ok) throw new Error(`The service answered with status ${response.status}.`);
  return URL.createObjectURL(await response.blob());
}

/** Save a file of the service. A link sends no key: with one the file is fetched first. */
export async function saveFile(address, name) {
  const source = hasKey() ? await blobAddress(address) : address;
  element("a", { href: source, download: name }).click();
  if (source !== address) setTimeout(() => URL.revokeObjectURL(source), 60_000);
}

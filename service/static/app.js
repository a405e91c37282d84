// The page: an image goes to /search, its neighbours become a grid. Foreign text is only ever textContent.

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const SAMPLES = 18;
const SMALL = 64; // pixels; up to here an image is shown with crisp pixels

let current = null; // the image asked about: {name, source} with its bytes, blob, or an indexed image's id
let asking = null; // AbortController of the running search
let items = null; // number of indexed images
let worth = null; // at each distance, the share of images that have the query's label, if that was measured
const visited = new Map(); // history entry -> query, so that "back" leads to the image before

/** An element with properties, text and children. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** JSON from the service; throws an Error whose message a person can act on. */
async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw Object.assign(new Error(body.detail ?? `The service answered with status ${response.status}.`), {
      status: response.status,
    });
  }
  return body;
}

function showError(message) {
  $("error").textContent = message.charAt(0).toUpperCase() + message.slice(1);
  $("error").hidden = false;
}

/** An image that shows its pixels if it has few. */
function picture(properties) {
  const image = element("img", { draggable: false, ...properties });
  image.addEventListener("load", () => markPixels(image));
  return image;
}

function markPixels(image) {
  image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL);
}

// --- searching ---------------------------------------------------------------------------------

/** Search with an image and remember it, so that the browser's back button returns to it. */
function begin(query) {
  const key = visited.size + 1;
  visited.set(key, query);
  history.pushState(key, "");
  open(query);
}

function open(query) {
  current = query;
  $("invitation").hidden = true;
  $("preview").hidden = false;
  $("name").textContent = query.name;
  $("name").title = query.name;
  query.source ??= URL.createObjectURL(query.blob);
  $("preview").classList.remove("blind");
  $("picture").src = query.source;
  search();
}

async function search() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const wanted = new URLSearchParams({ k: $("k").value });
  for (const label of chosenLabels()) wanted.append("label", label);
  $("results").setAttribute("aria-busy", "true");
  try {
    const answer = await (current.blob
      ? ask(`search?${wanted}`, { method: "POST", body: current.blob, signal })
      : ask(`images/${current.id}/similar?${wanted}`, { signal }));
    if (signal.aborted) return;
    $("error").hidden = true;
    show(answer);
  } catch (error) {
    if (signal.aborted) return; // a newer search has taken over
    $("results").replaceChildren();
    $("title").textContent = "No answer";
    $("status").textContent = "";
    $("code").hidden = true;
    showError(error.message);
  }
  $("results").removeAttribute("aria-busy");
}

const chosenLabels = () => [...document.querySelectorAll("#choices input:checked")].map(({ value }) => value);

function show(answer) {
  const hadFocus = $("results").contains(document.activeElement);
  drawCode(answer.code);
  $("title").textContent = headline(answer.results);
  $("status").textContent = summary(answer);
  $("results").replaceChildren(...answer.results.map(card));
  if (hadFocus) $("title").focus();
}

/** What most of the neighbours are. */
function headline(results) {
  if (results.length === 0) return "Nothing found";
  if (chosenLabels().length > 0) return "The nearest with these labels";
  const counts = new Map();
  for (const { label } of results) if (label !== null) counts.set(label, (counts.get(label) ?? 0) + 1);
  const [label, count] = [...counts].sort((a, b) => b[1] - a[1])[0] ?? [];
  if (counts.size === 0) return "Nearest images";
  if (count === results.length) return count === 1 ? `The nearest is “${label}”` : `All of them “${label}”`;
  return 2 * count > results.length
    ? `Mostly “${label}”: ${count} of ${results.length}`
    : `${counts.size} different labels`;
}

function summary({ results, exact, ties_at_cut: ties }) {
  if (results.length === 0) return "No indexed image matches these options.";
  const of = items === null || chosenLabels().length > 0 ? "" : ` of ${number.format(items)} images`;
  const last = results.at(-1).distance;
  const unseen = ties - results.filter(({ distance }) => distance === last).length;
  const more = unseen > 0 ? `; ${number.format(unseen)} more at the last distance, ${bitCount(last)}` : "";
  return `The ${number.format(results.length)} nearest${of}${exact ? "" : ", approximately"}${more}.`;
}

function card({ id, label, distance, thumbnail }) {
  const share = worth?.[distance];
  const percent = share === undefined ? "" : `${Math.round(100 * share)} %`;
  const known = percent && `: of images this near ${percent} share the label`;
  const name = label ?? "no label";
  const button = element(
    "button",
    { type: "button", title: `More like this. ${bitCount(distance)} away${known}` },
    picture({ src: thumbnail, alt: "", loading: "lazy" }),
    element(
      "span",
      { className: "about" },
      element("strong", { textContent: name, className: label === null ? "none" : "" }),
      element(
        "small",
        { textContent: bitCount(distance) },
        element("span", { className: "percent", textContent: percent && ` · ${percent}` }),
      ),
    ),
  );
  button.setAttribute("aria-label", `${name}, distance ${bitCount(distance)}${known}. Search for more like this`);
  button.addEventListener("click", () => moreLike(id, thumbnail, label));
  return element("li", {}, button);
}

const bitCount = (count) => `${count} ${count === 1 ? "bit" : "bits"}`;

/** Search with an indexed image, by the code that is stored. */
function moreLike(id, thumbnail, label) {
  const name = label === null ? `image ${id}` : `image ${id} · ${label}`;
  begin({ id, name, source: thumbnail });
  scrollTo({ top: 0, behavior: "smooth" });
}

/** The code as a square of black and empty pixels, one for each bit. */
function drawCode(hex) {
  const bits = [...hex].flatMap((digit) => [8, 4, 2, 1].map((bit) => (parseInt(digit, 16) & bit) > 0));
  const canvas = $("bits");
  canvas.width = canvas.height = Math.ceil(Math.sqrt(bits.length));
  const pen = canvas.getContext("2d");
  bits.forEach((on, i) => on && pen.fillRect(i % canvas.width, Math.floor(i / canvas.width), 1, 1));
  canvas.title = hex;
  $("length").textContent = `${bits.length}-bit code`;
  $("code").hidden = false;
}

// --- what the page shows before a search -------------------------------------------------------

/** Some indexed images to start from. Ids begin at 1 and may have gaps. */
async function showSamples() {
  try {
    ({ items } = await ask("health/ready"));
  } catch (error) {
    return showError(error.message);
  }
  if (current !== null) return;
  const ids = new Set();
  while (ids.size < Math.min(SAMPLES, items)) ids.add(1 + Math.floor(Math.random() * items));
  const samples = await Promise.allSettled([...ids].map((id) => ask(`images/${id}`)));
  if (current !== null) return;
  $("results").replaceChildren(
    ...samples.filter(({ status }) => status === "fulfilled").map(({ value }) => sample(value)),
  );
  $("status").textContent =
    items === 0
      ? "The index is empty."
      : `Choose an image, or start from one of the ${number.format(items)} in the index.`;
}

function sample({ id, label, thumbnail }) {
  const button = element("button", { type: "button" }, picture({ src: thumbnail, alt: "" }));
  button.setAttribute("aria-label", `Search with image ${id}${label === null ? "" : `, ${label}`}`);
  button.addEventListener("click", () => moreLike(id, thumbnail, label));
  return element("li", {}, button);
}

async function showQuality() {
  try {
    const [curve, measured] = await Promise.all([ask("eval/curve"), ask("eval/map")]);
    worth = curve.precision_at;
    const { map, aps, per_class: classes, definition } = measured;
    $("score").textContent = `mAP ${map.toFixed(3)}`;
    $("score").hidden = false;
    const depth = definition.k === null ? "the whole ranking" : `the first ${definition.k}`;
    $("measure").replaceChildren(
      element("strong", { textContent: `mAP ${map.toFixed(3)}` }),
      ` over ${number.format(definition.queries)} held-out queries, ${depth} of ` +
        `${number.format(definition.items)} labelled images.`,
    );
    $("words").textContent = definition.text;
    const facts = {
      "Median query": aps.median.toFixed(3),
      "Worst tenth below": aps.p10.toFixed(3),
      Images: definition.dataset,
      Labels: definition.labels,
      Backbone: definition.backbone,
      Rule: definition.rule,
      Encoder: definition.encoder_id,
      Made: new Date(definition.created).toLocaleDateString("en", { dateStyle: "medium" }),
    };
    $("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== null).map(fact));
    $("classes").replaceChildren(...classes.map(classScore));
    $("definition").hidden = false;
    offerLabels(classes.filter((each) => each.items > 0).map((each) => each.label));
  } catch (error) {
    const reason = error.message.charAt(0).toUpperCase() + error.message.slice(1);
    $("measure").textContent = error.status === 409 ? `Not measured. ${reason}.` : reason;
  }
}

function fact([name, value]) {
  return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
}

function classScore({ label, aps, queries, items: count }) {
  const bar = element("i");
  bar.style.width = `${100 * (aps ?? 0)}%`;
  return element(
    "li",
    { title: `${label}: ${number.format(queries)} queries, ${number.format(count)} images` },
    element("span", { textContent: label }),
    element("span", { textContent: aps === null ? "–" : aps.toFixed(3) }),
    element("b", {}, bar),
  );
}

function offerLabels(labels) {
  if (labels.length < 2) return;
  $("choices").replaceChildren(
    ...labels.map((label) =>
      element(
        "label",
        { title: label },
        element("input", { type: "checkbox", value: label, autocomplete: "off" }),
        element("span", { textContent: label }),
      ),
    ),
  );
  $("labels").hidden = false;
}

// --- ways in -----------------------------------------------------------------------------------

/** The first image among dropped or pasted files. */
function take(files) {
  if (files.length === 0) return showError("There is no image file in that. Save the image first, then choose it.");
  begin({ blob: files[0], name: files[0].name });
}

$("file").addEventListener("change", () => {
  if ($("file").files.length > 0) take($("file").files);
  $("file").value = ""; // so that the same file can be chosen again
});

document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (relatedTarget === null) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer.files);
});

$("picture").addEventListener("load", () => markPixels($("picture")));
$("picture").addEventListener("error", () => {
  $("preview").classList.add("blind"); // TIFF and the like: the service reads more than browsers show
});

$("options").addEventListener("submit", (event) => event.preventDefault());
$("options").addEventListener("change", () => current !== null && search());

addEventListener("popstate", ({ state }) => {
  if (visited.has(state)) open(visited.get(state));
  else if (current !== null) location.reload(); // the page as it was before the first image
});

history.replaceState(null, "");
showSamples();
showQuality();

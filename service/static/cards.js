// Pictures of indexed images that open large, with a line or two about each.

import { element } from "./dom.js";
import { picture } from "./service.js";
import { lookThrough } from "./viewer.js";

/** `name` is what a screen reader says; `about` are the elements that stand below the picture. */
export function imageLink({ id, thumbnail }, name, properties = {}, ...about) {
  const link = element("a", { href: `#image/${id}`, ...properties }, picture(thumbnail));
  if (about.length > 0) link.append(element("span", { className: "about" }, ...about));
  link.dataset.image = id;
  link.setAttribute("aria-label", name);
  link.addEventListener("click", () => lookThrough(link));
  return link;
}

/** A box to tick, on a picture; `name` is what a screen reader says. */
export function tick(id, name = "") {
  const box = element("input", { type: "checkbox", value: id, autocomplete: "off" });
  box.setAttribute("aria-label", name);
  return element("label", { className: "tick" }, box);
}

/** What searches with an image, beside its picture. */
export function similarLink(id) {
  const link = element("a", { href: `#search/${id}`, className: "similar", title: "More like this", textContent: "≈" });
  link.setAttribute("aria-label", `More like image ${id}`);
  return link;
}

/** A row of links. */
export function strip(name, links) {
  const list = element("ul", { className: "strip" }, ...links.map((link) => element("li", {}, link)));
  list.setAttribute("aria-label", name);
  return list;
}

// Links that search with an indexed image: its picture, and a line or two about it.

import { element } from "./dom.js";
import { picture } from "./service.js";

/** `name` is what a screen reader says; `about` are the elements that stand below the picture. */
export function imageLink({ id, thumbnail }, name, properties = {}, ...about) {
  const link = element("a", { href: `#search/${id}`, ...properties }, picture(thumbnail));
  if (about.length > 0) link.append(element("span", { className: "about" }, ...about));
  link.setAttribute("aria-label", name);
  return link;
}

/** A row of such links. */
export function strip(name, links) {
  const list = element("ul", { className: "strip" }, ...links.map((link) => element("li", {}, link)));
  list.setAttribute("aria-label", name);
  return list;
}

// The tree of folders beside the images. What lies in a folder is asked for when it is opened.

import { $, alertIn, element, number, plural } from "./dom.js";
import { addressOf, chooseFolder } from "./filters.js";
import { ask } from "./service.js";

const SIZE = 200; // folders of a part
const panel = $("folders");
const tree = $("folder-tree");

let shown = null; // path of the folder whose images are listed
let turn = 0; // of the latest that fills the tree; what an earlier one hears is of yesterday

$("folder-fold").open = matchMedia("(min-width: 761px)").matches;

/** Say which folder's images are listed, in the tree too, as far as that must be opened for it. */
export function markFolder(path) {
  shown = path;
  mark();
  if (turn > 0 && path !== null) guarded(() => reveal(path, turn));
}

/** Ask again for what is shown: images came or went. */
export function renewFolders() {
  const opened = items().filter(isOpen).map(pathOf);
  const focused = tree.contains(document.activeElement) ? pathOf(document.activeElement) : null;
  turn += 1;
  const mine = turn;
  return guarded(async () => {
    const { folders, next } = await part("");
    if (mine !== turn) return;
    tree.replaceChildren();
    panel.hidden = folders.length === 0;
    fill(tree, folders, next, "", 1);
    for (const path of opened) {
      const item = itemAt(path);
      if (item?.hasAttribute("aria-expanded")) await open(item);
      if (mine !== turn) return;
    }
    if (shown !== null) await reveal(shown, mine);
    if (focused !== null) itemAt(focused)?.focus({ preventScroll: true });
  });
}

async function guarded(work) {
  alertIn(panel);
  try {
    await work();
  } catch (error) {
    alertIn(panel, error.message);
  }
}

const part = (under, after) =>
  ask(`folders?${new URLSearchParams({ limit: SIZE, ...(under && { under }), ...(after && { after }) })}`);

// --- its elements -------------------------------------------------------------------------------

const items = () => [...tree.querySelectorAll("[role=treeitem]")];
const inSight = () => items().filter((item) => item.offsetParent !== null);
const itemAt = (path) => items().find((item) => pathOf(item) === path);
const pathOf = (item) => item.dataset.path;
const isOpen = (item) => item.getAttribute("aria-expanded") === "true";
const groupOf = (item) => item.parentElement.querySelector(":scope > ul");
const parentOf = (item) => item.closest("ul").parentElement.querySelector(":scope > [role=treeitem]");

function fill(list, folders, next, under, level) {
  list.append(...folders.map((folder) => element("li", { role: "none" }, itemOf(folder, level))));
  if (next !== null) list.append(element("li", { role: "none" }, moreOf(list, next, under, level)));
  mark();
}

function itemOf({ name, path, images, folders }, level) {
  const item = element(
    "a",
    { href: addressOf(new URLSearchParams({ under: path })), role: "treeitem", ariaLevel: level, title: name },
    element("span", { className: "fold", ariaHidden: "true" }),
    element("span", { className: "name", textContent: name }),
    element("small", { textContent: number.format(images), title: plural(images, "image") }),
  );
  item.dataset.path = path;
  item.setAttribute("aria-label", `${name}, ${plural(images, "image")}`);
  if (folders > 0) item.setAttribute("aria-expanded", false);
  return item;
}

function moreOf(list, after, under, level) {
  const more = element("button", { type: "button", role: "treeitem", ariaLevel: level, textContent: "Show more" });
  Object.assign(more.dataset, { after, under });
  more.addEventListener("click", () => guarded(() => showMore(list, more)));
  return more;
}

async function showMore(list, more) {
  const { after, under } = more.dataset;
  const hadFocus = more === document.activeElement;
  const { folders, next } = await part(under, after);
  if (!more.isConnected) return; // somebody else has asked, too
  more.parentElement.remove();
  fill(list, folders, next, under, more.ariaLevel);
  if (hadFocus && folders.length > 0) itemAt(folders[0].path).focus();
}

/** Which item is the current one, and which of them Tab leads to. */
function mark() {
  const all = items();
  for (const item of all) {
    if (shown !== null && pathOf(item) === shown) item.setAttribute("aria-current", true);
    else item.removeAttribute("aria-current");
  }
  const reached = all.find((item) => item === document.activeElement) ?? all.find((item) => item.ariaCurrent) ?? all[0];
  for (const item of all) item.tabIndex = item === reached ? 0 : -1;
}

// --- opening ------------------------------------------------------------------------------------

async function open(item) {
  item.setAttribute("aria-expanded", true);
  if (groupOf(item) !== null) {
    groupOf(item).hidden = false;
    return;
  }
  try {
    const { folders, next } = await part(pathOf(item));
    if (groupOf(item) !== null) return;
    const list = element("ul", { role: "group", hidden: !isOpen(item) });
    item.parentElement.append(list);
    fill(list, folders, next, pathOf(item), Number(item.ariaLevel) + 1);
  } catch (error) {
    item.setAttribute("aria-expanded", false);
    throw error;
  }
}

function close(item) {
  const list = groupOf(item);
  if (list?.contains(document.activeElement)) item.focus();
  item.setAttribute("aria-expanded", false);
  if (list !== null) list.hidden = true;
}

const toggle = (item) => (isOpen(item) ? close(item) : guarded(() => open(item)));

/** Open all that leads to a folder. */
async function reveal(path, mine) {
  for (let list = tree; list !== null && mine === turn && path === shown; ) {
    const here = [...list.querySelectorAll(":scope > li > [role=treeitem]")];
    const ways = here.filter((item) => path === pathOf(item) || path.startsWith(`${pathOf(item)}/`));
    const way = ways.sort((one, other) => pathOf(other).length - pathOf(one).length)[0];
    const more = here.find((item) => item.dataset.after !== undefined);
    if (way === undefined && more === undefined) return;
    if (way === undefined) {
      await showMore(list, more);
      continue;
    }
    if (pathOf(way) === path) {
      if (!tree.contains(document.activeElement)) way.scrollIntoView({ block: "nearest" });
      return mark();
    }
    if (!way.hasAttribute("aria-expanded")) return;
    await open(way);
    list = groupOf(way);
  }
}

// --- what people do -----------------------------------------------------------------------------

tree.addEventListener("click", (event) => {
  const item = event.target.closest("a");
  if (item === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (event.target.closest(".fold") && item.hasAttribute("aria-expanded")) toggle(item);
  else chooseFolder(pathOf(item));
});
tree.addEventListener("focusin", mark);

const STEPS = {
  ArrowDown: (all, at) => all[at + 1],
  ArrowUp: (all, at) => all[at - 1],
  Home: (all) => all[0],
  End: (all) => all.at(-1),
  ArrowRight(all, at) {
    if (isOpen(all[at])) return groupOf(all[at])?.querySelector("[role=treeitem]");
    if (all[at].hasAttribute("aria-expanded")) toggle(all[at]);
  },
  ArrowLeft(all, at) {
    if (!isOpen(all[at])) return parentOf(all[at]);
    close(all[at]);
  },
  " ": (all, at) => all[at].click(),
};
tree.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || !Object.hasOwn(STEPS, event.key)) return;
  event.preventDefault();
  const all = inSight();
  STEPS[event.key](all, all.indexOf(event.target.closest("[role=treeitem]")))?.focus();
});

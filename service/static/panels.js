// Parts of a view that show what the service finds out: it may come late, be refused, and change while nobody looks.

import { alertIn, element } from "./dom.js";
import { ask } from "./service.js";

const LATE = 300; // milliseconds; sooner it would only flicker

/**
 * A function that loads an answer and has `draw` show it in a section. What was shown stays, dimmed, until there
 * is something else to show; a newer question takes over from an older one. It resolves to the answer (null: none,
 * or taken over) and what refused it.
 */
export function panel(section, draw) {
  let shown = null; // the answer that is drawn, as text
  let asking = null;
  return async function show(load) {
    asking?.abort();
    asking = new AbortController();
    const { signal } = asking;
    section.setAttribute("aria-busy", "true");
    section.classList.toggle("waiting", shown === null);
    let [answer, error] = [null, null];
    try {
      answer = await load((address) => ask(address, { signal }));
    } catch (failure) {
      error = failure;
    }
    if (signal.aborted) return { answer: null, error: null };
    const text = JSON.stringify(answer);
    if (error === null && text !== shown) draw(answer);
    shown = error === null ? text : null;
    alertIn(section, error?.message);
    section.classList.toggle("refused", error !== null);
    section.classList.remove("waiting");
    section.removeAttribute("aria-busy");
    return { answer, error };
  };
}

/** What `promise` resolves to; if that takes long, it is said meanwhile. */
export async function saidWhenLate(place, text, promise) {
  const late = setTimeout(() => (place.textContent = text), LATE);
  try {
    return await promise;
  } finally {
    clearTimeout(late);
  }
}

/**
 * A function that shows the first page of a list, to which the button then adds others: `load(ask, after)` resolves
 * to the page after a cursor, `rowsOf(page)` gives its elements.
 */
export function paged(list, button, section, load, rowsOf) {
  let next = null; // cursor of the page after the last that is shown; null: there is none
  function add(page) {
    const rows = rowsOf(page);
    list.append(...rows);
    next = page.next;
    button.hidden = next === null;
    return rows[0];
  }
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const after = next;
      const page = await load(ask, after);
      const first = after === next ? add(page) : null; // else another list has come meanwhile
      alertIn(section);
      first?.querySelector("a").focus();
    } catch (error) {
      alertIn(section, error.message);
    }
    button.disabled = false;
  });
  return (page) => {
    list.replaceChildren();
    add(page);
  };
}

/** A figure, its name and what it means, of a <dl>. */
export function figure([name, value, meaning]) {
  return element(
    "div",
    {},
    element("dt", { textContent: name }),
    element("dd", {}, element("strong", { textContent: value }), element("small", { textContent: meaning })),
  );
}

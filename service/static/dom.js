// Elements and words that all of the page's modules use. Foreign text is only ever textContent.

const SMALL = 64; // pixels; up to here an image is shown with crisp pixels

export const $ = (id) => document.getElementById(id);
export const number = new Intl.NumberFormat("en");
export const percent = (share) => `${Math.round(100 * share)} %`;
export const precise = (share) => `${(100 * share).toFixed(1)} %`;
export const plural = (count, one, many = `${one}s`) => `${number.format(count)} ${count === 1 ? one : many}`;
export const bitCount = (count) => plural(count, "bit");
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** An element with properties, text and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Show few pixels as what they are; to be called when an image has loaded. */
export function markPixels(image) {
  image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL);
}

/** One fact of a <dl>. */
export function fact([name, value]) {
  return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
}

/** A function that has something done once an element comes into sight, or so near to it. */
export function onceInSight(rootMargin = "0px") {
  const actions = new WeakMap();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        actions.get(target)();
      }
    },
    { rootMargin },
  );
  return (target, action) => {
    actions.set(target, action);
    observer.observe(target);
  };
}

/** The alert of a view; without a message it disappears. */
export function alertIn(place, message = "") {
  const alert = place.querySelector(".error");
  alert.textContent = sentence(message);
  alert.hidden = message === "";
}

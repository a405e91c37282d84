// What a label is: the rule of index/labels.py again, so that the page can say what is wrong before it sends anything.

const LONGEST = 200; // characters of a label
const DECOMPOSED = 4 * LONGEST; // of a text that is composed at all
const AROUND = /^\p{White_Space}+|\p{White_Space}+$/gu;
const NO_TEXT = [
  ["a control character", /\p{Cc}/u],
  ["a line break", /[\p{Zl}\p{Zp}]/u],
  ["half of a surrogate pair", /\p{Cs}/u],
];

/** A text as a label: composed (NFC), without the white space around it; empty: none. */
export function labelOf(text) {
  const trimmed = text.replace(AROUND, "");
  return [...trimmed].length > DECOMPOSED ? trimmed : trimmed.normalize("NFC");
}

/** Why a text is no label; null: it is one. */
export function labelFault(text) {
  const { length } = [...labelOf(text)];
  if (length > LONGEST) return `The label has ${length} characters, at most ${LONGEST} are kept; shorten it.`;
  const before = [...text].length - [...text.replace(/^\p{White_Space}+/u, "")].length;
  for (const [at, character] of [...text.replace(AROUND, "")].entries()) {
    const found = NO_TEXT.find(([, pattern]) => pattern.test(character));
    if (found) return `There is ${found[0]} at position ${before + at + 1} of the label; leave it out.`;
  }
  return null;
}

/** Why the service would refuse a label; null: it would not. One that an indexed image has is accepted, whatever it is. */
export function refusal(text) {
  const known = [...document.querySelectorAll("#known-labels option")];
  return known.some(({ value }) => value === text) ? null : labelFault(text);
}

/** Have a field of a form refuse what the service would refuse. */
export function checkLabel(field, wanted = true) {
  field.setCustomValidity((wanted && refusal(field.value)) || "");
}

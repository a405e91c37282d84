// Small drawings in SVG, as wide as their place, so that letters and lines keep their size on every screen.

import { element } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";
const MARGIN = { left: 46, right: 22, top: 22, bottom: 40 };
const GAP = 40; // between bands
const LETTER = 7.8; // pixels, about the width of a letter
const NARROW = 460; // pixels; below, the bars stand under their names
const WIDTHS = new WeakMap(); // place -> the width it was drawn for
const drawings = new WeakMap(); // place -> function that draws it for a width

const sizes = new ResizeObserver((entries) =>
  requestAnimationFrame(() => {
    for (const { target } of entries) drawAt(target);
  }),
);

/** Draw now, and again whenever the place has another width. */
function keepDrawn(place, draw) {
  drawings.set(place, draw);
  WIDTHS.delete(place);
  sizes.observe(place);
  drawAt(place);
}

function drawAt(place) {
  const width = Math.floor(place.clientWidth);
  if (width === 0 || width === WIDTHS.get(place)) return; // hidden, or nothing new
  WIDTHS.set(place, width);
  drawings.get(place)(width);
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The picture of a chart: its title is what a screen reader says first. */
function picture(title, description) {
  return svg("svg", { role: "img", "aria-label": title, class: "chart" }, svg("desc", {}, description));
}

function fill(drawing, width, height, parts) {
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
    drawing.setAttribute(name, value);
  }
  drawing.replaceChildren(drawing.querySelector("desc"), ...parts);
}

/** Multiples of the smallest step with which there are at most `most` of them from 0 to `end`. */
function ticks(end, most, steps) {
  const step = steps.find((each) => end / each <= most) ?? end;
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => i * step);
}

const BINARY = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
const DECIMAL = [...Array(12).keys()].flatMap((i) => [1, 2, 5].map((digit) => digit * 10 ** (i - 6)));

/**
 * One x axis from 0, and bands of y axes from 0 above it.
 *
 * x: {end, name, form, binary}; bands: [{share, end, name, form, draw}], `share` of the height; `draw` takes the
 * band's {x, y, left, right, top, bottom}, x and y functions that turn values into pixels, and gives elements.
 * Where values can be picked, pointing at `at(bands, x, y)` picks one, and cursor(bands, value) gives the elements
 * that mark it. Returns a function that marks one.
 */
export function chart(place, { title, description, height, x, bands, at, picked, cursor }) {
  const drawing = picture(title, description);
  const marks = svg("g", { class: "cursor" });
  let plots = [];
  let value = null;

  function mark(wanted = value) {
    value = wanted;
    if (value !== null && plots.length > 0) marks.replaceChildren(...cursor(plots, value));
  }

  function pointed({ clientX, clientY }) {
    const { left, top } = drawing.getBoundingClientRect();
    picked(at(plots, clientX - left, clientY - top));
  }

  if (picked) for (const kind of ["pointermove", "pointerdown"]) drawing.addEventListener(kind, pointed);
  place.replaceChildren(drawing);
  keepDrawn(place, (width) => {
    plots = layOut(width, height, x, bands);
    fill(drawing, width, height, [
      ...plots.flatMap((plot, i) => [...axes(plot, x, bands[i], i === bands.length - 1), ...bands[i].draw(plot)]),
      marks,
    ]);
    mark();
  });
  return mark;
}

function layOut(width, height, x, bands) {
  const room = height - MARGIN.top - MARGIN.bottom - GAP * (bands.length - 1);
  const [left, right] = [MARGIN.left, width - MARGIN.right];
  let top = MARGIN.top;
  return bands.map(({ share = 1, end }) => {
    const bottom = top + share * room;
    const plot = {
      ...{ left, right, top, bottom },
      x: (value) => left + (value / x.end) * (right - left),
      y: (value) => bottom - (value / end) * share * room,
    };
    top = bottom + GAP;
    return plot;
  });
}

function axes(plot, x, { end, name, form }, last) {
  const { left, right, top, bottom } = plot;
  const across = ticks(x.end, (right - left) / 52, x.binary ? BINARY : DECIMAL);
  const up = ticks(end, Math.max(2, (bottom - top) / 34), DECIMAL);
  return [
    ...up.flatMap((value) => [
      svg("line", { class: "grid", x1: left, x2: right, y1: plot.y(value), y2: plot.y(value) }),
      letters(form(value), left - 8, plot.y(value) + 4, "end"),
    ]),
    letters(name, left, top - 9, "start"),
    ...(last
      ? [
          ...across.map((value) => letters(x.form(value), plot.x(value), bottom + 17, "middle")),
          letters(x.name, right, bottom + 35, "end"),
        ]
      : []),
  ];
}

function letters(text, x, y, anchor = "start", kind = "letters") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, text);
}

/** A line through [x, y] pixels. */
export function line(points, kind) {
  return svg("path", { d: path(points), class: `line ${kind}` });
}

/** What marks a value of the x axis, at its pixel. */
export function upright({ top, bottom }, x) {
  return svg("line", { class: "reading", x1: x, x2: x, y1: top, y2: bottom });
}

/** The nearest of the values from 0 to `last`: somebody may point beside a plot. */
export const within = (value, last) => Math.min(last, Math.max(0, value));

/** The steps of a histogram of counts or shares at 0, 1, …, each as wide as its unit. */
export function steps({ x, y, bottom }, shares, kind) {
  const points = shares.flatMap((share, i) => [
    [x(i), y(share)],
    [x(i + 1), y(share)],
  ]);
  return svg("path", { d: `M${x(0)},${bottom}L${path(points).slice(1)}V${bottom}Z`, class: `steps ${kind}` });
}

const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}`;

/** Names of lines and areas, each with what it looks like. */
export function legend(...entries) {
  return element(
    "p",
    { className: "legend" },
    ...entries.map(([kind, name]) => {
      const sample = svg("svg", { viewBox: "0 0 26 12", width: 26, height: 12, "aria-hidden": "true" });
      sample.append(
        kind.startsWith("line")
          ? svg("path", { d: "M1,6H25", class: kind })
          : svg("rect", { x: 1, y: 1, width: 24, height: 10, class: kind }),
      );
      return element("span", {}, sample, name);
    }),
  );
}

/** Horizontal bars. rows: [{name, value (0 to 1; null: none), text, note}]. */
export function bars(place, { title, description, rows }) {
  const drawing = picture(title, description);
  place.replaceChildren(drawing);
  keepDrawn(place, (width) => {
    const narrow = width < NARROW;
    const step = narrow ? 38 : 27;
    const longest = (part) => LETTER * Math.max(0, ...rows.map((row) => row[part].length));
    const left = narrow ? 0 : Math.min(longest("name"), 0.3 * width) + 12;
    const right = width - (narrow ? 0 : longest("text") + longest("note") + 34);
    const name = (row) => shortened(row.name, narrow ? width - longest("text") - longest("note") - 34 : left - 12);
    fill(
      drawing,
      width,
      rows.length * step,
      rows.flatMap((row, i) => {
        const [line, top] = [i * step + (narrow ? 16 : 18), i * step + (narrow ? 23 : 7)];
        const size = { x: left, y: top, height: narrow ? 7 : 13, rx: 3 };
        return [
          letters(name(row), 0, line, "start", "letters strong"),
          svg("rect", { ...size, width: right - left, class: "well" }),
          svg("rect", { ...size, width: (row.value ?? 0) * (right - left), class: "bar" }),
          letters(row.text, width - longest("note") - 12, line, "end", "letters strong"),
          letters(row.note, width, line, "end"),
        ];
      }),
    );
  });
}

function shortened(text, width) {
  const most = Math.max(3, Math.floor(width / LETTER));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** A figure between 0 and 1 with its interval, on a scale with another to compare it with. */
export function gauge(place, { title, description, value, interval, other }) {
  const drawing = picture(title, description);
  place.replaceChildren(drawing);
  keepDrawn(place, (width) => {
    const x = (share) => 8 + share * (width - 16);
    const span = (from, to, y, height, kind) =>
      svg("rect", { x: x(from), width: Math.max(0, x(to) - x(from)), y, height, rx: height / 2, class: kind });
    const beside = x(other.value) < width / 2 ? "start" : "end";
    fill(drawing, width, 62, [
      span(0, 1, 24, 12, "well"),
      span(0, value, 24, 12, "bar"),
      ...(interval === null ? [] : [span(interval.low, interval.high, 28, 4, "interval")]),
      svg("line", { class: "other", x1: x(other.value), x2: x(other.value), y1: 17, y2: 43 }),
      letters(other.name, x(other.value) + (beside === "start" ? -2 : 2), 12, beside),
      ...[0, 0.25, 0.5, 0.75, 1].map((share) =>
        letters(String(share), x(share), 56, share === 0 ? "start" : share === 1 ? "end" : "middle"),
      ),
    ]);
  });
}

/** The numbers of a chart as a table, made when somebody wants to see it. rows() gives arrays of texts. */
export function asTable(caption, headings, rows) {
  const details = element("details", { className: "numbers" }, element("summary", { textContent: "Show as table" }));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) {
      details.append(scrolling(`${caption}, in numbers`, table(caption, headings, rows())));
    }
  });
  return details;
}

/** A table whose first column names its rows. A cell is a text or an element. */
export function table(caption, headings, rows) {
  const cell = (tag, content, properties = {}) => {
    const made = element(tag, properties);
    made.append(content);
    return made;
  };
  return element(
    "table",
    {},
    element("caption", { className: "hidden", textContent: caption }),
    element("thead", {}, element("tr", {}, ...headings.map((text) => cell("th", text, { scope: "col" })))),
    element(
      "tbody",
      {},
      ...rows.map(([first, ...rest]) =>
        element("tr", {}, cell("th", first, { scope: "row" }), ...rest.map((text) => cell("td", text))),
      ),
    ),
  );
}

/** What may be larger than its place; the keyboard scrolls it. */
export function scrolling(name, ...children) {
  const region = element("div", { className: "scrolling", tabIndex: 0 }, ...children);
  region.setAttribute("role", "region");
  region.setAttribute("aria-label", name);
  return region;
}

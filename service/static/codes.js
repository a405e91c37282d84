// The view that shows what the codes are like: bits that say little, and images that cannot be told apart.

import { imageLink, strip } from "./cards.js";
import { asTable, bars, chart, legend, svg, upright, within } from "./charts.js";
import { $, bitCount, element, number, percent, plural, precise } from "./dom.js";
import { figure, paged, panel, saidWhenLate } from "./panels.js";

const MEMBERS = 12; // pictures shown of a group
const GROUPS = 10; // at a time
const HEIGHT = 230; // pixels of a chart
const BINS = 20; // of the bits by their balance
const PAIRS = 10; // of bits that are drawn; the table has all

const view = $("codes-view");

let bits = []; // of the answer that is shown
let mark = null; // function that marks a bit

const showReport = panel($("report-panel"), drawReport);
const showGroups = panel($("duplicates-panel"), drawGroups);
const listGroups = paged($("groups"), $("more-groups"), $("duplicates-panel"), groupPage, ({ found }) =>
  found.map(groupRow),
);

/** Show what was counted, and ask anew: the service counts only what has changed. */
export async function open() {
  const report = showReport((get) => get("eval/codes"));
  const { answer, error } = await saidWhenLate($("codes-status"), "The codes are being counted …", report);
  if (answer === null && error === null) return; // a newer question took over
  const empty = error?.status === 409;
  $("duplicates-panel").hidden = empty;
  $("codes-status").textContent =
    answer === null
      ? "There are no codes to show."
      : `Codes of ${plural(answer.items, "image")}, ${bitCount(answer.bits.length)} each.`;
  if (!empty) compare();
}

// --- bits ---------------------------------------------------------------------------------------

function drawReport(report) {
  bits = report.bits;
  const length = bits.length;
  $("code-figures").replaceChildren(
    ...[
      [
        "Effective bits",
        `${report.effective_bits.toFixed(1)} of ${length}`,
        "So many independent bits would say as much. About as many as there are labels is normal where labels taught them; worry when it is far less.",
      ],
      [
        "Dead bits",
        number.format(report.dead.length),
        "They are the same in every code and say nothing. A few do no harm; worry when they are many: training failed there.",
      ],
      [
        "Mean correlation",
        report.mean_absolute_correlation.toFixed(2),
        "Of all pairs of bits, whatever its sign. At 0 each bit adds something; worry near 1, where all repeat one another.",
      ],
      [
        "Different codes",
        `${number.format(report.distinct)} of ${number.format(report.items)}`,
        "Images of one code cannot be put in order; worry when there are far fewer codes than images.",
      ],
      [
        "Images that share a code",
        `${number.format(report.colliding)} (${percent(report.colliding / report.items)})`,
        report.collisions.length === 0
          ? "Each image has a code of its own."
          : `The largest of these groups has ${number.format(report.collisions[0].size)}. Copies and near copies belong here; worry when most images do. They are shown below.`,
      ],
    ].map(figure),
  );
  $("bit-charts").hidden = false;
  drawBalance(new Set(report.dead));
  drawSpread();
  drawCorrelated(report.most_correlated);
}

function drawBalance(dead) {
  const last = bits.length - 1;
  $("at-bit").max = last;
  $("balance-table").replaceChildren(
    legend(
      ["bar", "share of ones, from one half"],
      ...(dead.size > 0 ? [["dead", "dead: always 0, or always 1"]] : []),
    ),
    asTable("Balance of each bit", ["Bit", "Ones", "Entropy"], () =>
      bits.map(({ bit, balance, entropy }) => [String(bit), precise(balance), `${entropy.toFixed(3)} bit`]),
    ),
  );
  const shares = bits.map(({ balance }) => balance);
  mark = chart($("balance-chart"), {
    title: "Share of ones of each bit",
    description: `From ${precise(Math.min(...shares))} to ${precise(Math.max(...shares))}; ${plural(dead.size, "dead bit")}.`,
    height: HEIGHT,
    x: { end: bits.length, name: "bit", form: number.format, binary: true },
    bands: [
      {
        end: 1,
        name: "share of ones",
        form: percent,
        draw: (plot) => [
          ...bits.map(({ bit, balance }) => balanceBar(plot, bit, balance, dead.has(bit))),
          svg("line", { class: "half", x1: plot.left, x2: plot.right, y1: plot.y(0.5), y2: plot.y(0.5) }),
        ],
      },
    ],
    at: ([{ left, right }], x) => within(Math.floor(((x - left) / (right - left)) * bits.length), last),
    picked: pick,
    cursor: ([plot], bit) => [upright(plot, plot.x(bit + 0.5))],
  });
  pick(Math.min(last, Number($("at-bit").value)));
}

/** From one half up or down to the share; a dead bit as a mark over all of its side. */
function balanceBar({ x, y }, bit, balance, dead) {
  const [low, high] = balance < 0.5 ? [balance, 0.5] : [0.5, balance];
  const width = x(1) - x(0);
  return svg("rect", {
    class: dead ? "dead" : "bar",
    x: x(bit) + 0.1 * width,
    width: 0.8 * width,
    y: y(high),
    height: Math.max(0.5, y(low) - y(high)),
  });
}

function pick(bit) {
  $("at-bit").value = bit;
  const { balance, entropy } = bits[bit];
  const words = `${bit}: ones in ${precise(balance)} of the codes, entropy ${entropy.toFixed(3)} of 1 bit${entropy === 0 ? ", dead" : ""}.`;
  $("bit-words").textContent = words;
  $("at-bit").setAttribute("aria-valuetext", words);
  mark(bit);
}

function drawSpread() {
  const counts = Array(BINS).fill(0);
  for (const { balance } of bits) counts[Math.min(BINS - 1, Math.floor(balance * BINS))] += 1;
  const range = (bin) => `${percent(bin / BINS)} to ${percent((bin + 1) / BINS)}`;
  $("spread-table").replaceChildren(
    asTable("Bits by their share of ones", ["Share of ones", "Bits"], () =>
      counts.map((count, bin) => [range(bin), number.format(count)]),
    ),
  );
  const fullest = counts.indexOf(Math.max(...counts));
  chart($("spread-chart"), {
    title: "How many bits have which share of ones",
    description: `Most bits, ${counts[fullest]}, have ${range(fullest)} ones.`,
    height: HEIGHT + 40,
    x: { end: 1, name: "share of ones", form: percent },
    bands: [
      {
        end: 1.05 * counts[fullest],
        name: "bits",
        form: number.format,
        draw: ({ x, y, bottom }) =>
          counts.map((count, bin) =>
            svg("rect", {
              class: "bar",
              x: x(bin / BINS) + 1,
              width: x(1 / BINS) - x(0) - 2,
              y: y(count),
              height: bottom - y(count),
            }),
          ),
      },
    ],
  });
}

function drawCorrelated(pairs) {
  const place = element("div");
  $("correlated-bars").replaceChildren(
    place,
    asTable("The most correlated pairs of bits", ["Bits", "Correlation"], () =>
      pairs.map(({ first, second, correlation }) => [`${first} and ${second}`, signed(correlation)]),
    ),
  );
  bars(place, {
    title: "The most correlated pairs of bits",
    description: "A bar for each pair, the largest correlation first; the table below has more.",
    rows: pairs.slice(0, PAIRS).map(({ first, second, correlation }) => ({
      name: `${first} and ${second}`,
      value: Math.abs(correlation),
      text: signed(correlation),
      note: correlation < 0 ? "opposite" : "alike",
    })),
  });
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

// --- groups of near images ----------------------------------------------------------------------

function groupPage(get, after = null) {
  const wanted = new URLSearchParams({ radius: $("radius").value, limit: GROUPS, members: MEMBERS });
  if (after !== null) wanted.set("after", after);
  return get(`duplicates?${wanted}`);
}

function compare() {
  return showGroups((get) => groupPage(get));
}

function drawGroups(page) {
  const { radius, groups, images } = page;
  const words = radius === 0 ? "with one code" : `with steps of at most ${bitCount(radius)}`;
  $("duplicates-words").textContent =
    groups === 0
      ? `There is no group ${words}.`
      : `${plural(groups, "group")} ${words}, with ${plural(images, "image")} in all.`;
  listGroups(page);
}

function groupRow({ size, labels, images }) {
  const of = size > images.length ? `, ${number.format(images.length)} of them shown` : "";
  return element(
    "li",
    {},
    element(
      "p",
      {},
      element("strong", { textContent: plural(size, "image") }),
      of,
      ...(labels > 1 ? [element("span", { className: "mixed", textContent: `${number.format(labels)} labels` })] : []),
    ),
    strip(`Group of ${size}`, images.map(member)),
  );
}

function member(image) {
  const name = image.label ?? "no label";
  const title = `Image ${image.id}, ${name}`;
  return imageLink(image, title, { title }, element("small", { textContent: name }));
}

function sayRadius() {
  const words = `${bitCount(Number($("radius").value))} apart`;
  $("radius-words").textContent = words;
  $("radius").setAttribute("aria-valuetext", words);
}

$("at-bit").addEventListener("input", () => pick(Number($("at-bit").value)));
$("duplicates-options").addEventListener("submit", (event) => event.preventDefault());
$("radius").addEventListener("input", sayRadius);
$("radius").addEventListener("change", compare);
addEventListener("measured", () => !view.hidden && open());

// The view that shows how good the answers are, and where they are not.

import { imageLink, strip } from "./cards.js";
import { asTable, bars, chart, gauge, legend, line, scrolling, steps, svg, table, upright, within } from "./charts.js";
import { $, bitCount, element, fact, number, percent, plural, precise, sentence } from "./dom.js";
import { paged, panel, saidWhenLate } from "./panels.js";
import { depth, refuseUnmeasurable } from "./quality.js";

const NEAREST = 8; // results shown of a query
const QUERIES = 5; // at a time
const PAIRS = 12; // confused pairs of labels that are listed
const WIDEST = 24; // labels, in the table of all with all
const SHORT = 3; // letters of a label; longer ones stand upright above their columns
const HEIGHT = 280; // pixels of a chart

const view = $("evaluation-view");
const score = (value) => (value === null ? "–" : value.toFixed(3));
const queryCount = (count) => plural(count, "query", "queries");

let curve = null; // answer of eval/curve
let marks = []; // functions that mark a distance in a chart

const showMap = panel($("map-panel"), drawMap);
const showConfusion = panel($("confusion-panel"), drawConfusion);
const showCurve = panel($("distance-panel"), drawCurve);
const showQueries = panel(
  $("queries-panel"),
  paged($("queries"), $("more-queries"), $("queries-panel"), queryPage, ({ queries }) => queries.map(queryRow)),
);

/** Show what was measured, and ask anew: the service measures only what has changed. */
export async function open() {
  const { answer, error } = await measure();
  if (error !== null) return; // it is said once
  const measurable = (path) => async (get) => {
    // Where a newer question took over, nothing is known yet of what there is to measure.
    if (answer === null) refuseUnmeasurable(await get("stats"));
    return get(path);
  };
  showCurve(measurable("eval/curve"));
  showConfusion(measurable("eval/confusion"));
}

/** What the choice of a mAP decides. */
async function measure() {
  $("map-denominator").disabled = $("map-k").value === ""; // it makes no difference to a whole ranking
  const asked = showMap(async (get) => {
    refuseUnmeasurable(await get("stats"));
    return get(`eval/map?${chosen()}`);
  });
  const measured = await saidWhenLate($("evaluation-status"), "Being measured …", asked);
  const unmeasurable = measured.error?.status === 409;
  if (measured.answer === null && measured.error === null) return measured; // a newer question took over
  $("unmeasured").hidden = !unmeasurable;
  $("measurements").hidden = unmeasurable;
  if (unmeasurable) $("unmeasured-why").textContent = `${sentence(measured.error.message)}.`;
  $("evaluation-status").textContent = status(measured.answer, unmeasurable);
  for (const section of $("measurements").children)
    section.hidden = measured.answer === null && section !== $("map-panel");
  if (measured.answer !== null) showQueries((get) => queryPage(get));
  return measured;
}

function status(answer, unmeasurable) {
  if (answer === null) return unmeasurable ? "There is nothing to measure with." : "It could not be measured.";
  const { definition } = answer;
  const left = definition.dropped_queries
    ? `; ${queryCount(definition.dropped_queries)} without an image of their label left out`
    : "";
  return `${plural(definition.queries, "held-out query", "held-out queries")}, ${depth(definition)}${left}.`;
}

function chosen() {
  const wanted = new URLSearchParams({ ties: $("map-ties").value, denominator: $("map-denominator").value });
  if ($("map-k").value !== "") wanted.set("k", $("map-k").value);
  return wanted;
}

// --- the figure ---------------------------------------------------------------------------------

function drawMap({ map, interval, chance, aps, per_class: classes, definition }) {
  const { k } = definition;
  const between = interval && `95 % interval ${score(interval.low)} to ${score(interval.high)}`;
  const random = `chance ${score(chance)}`;
  $("map-value").replaceChildren(
    element("strong", { textContent: score(map) }),
    element("span", { textContent: k === null ? "mAP" : `mAP@${k}` }),
  );
  $("map-beside").textContent = `${sentence([between, random].filter(Boolean).join(", "))}.`;
  gauge($("map-gauge"), {
    title: "Mean average precision on a scale from 0 to 1",
    description: [score(map), between, random].filter(Boolean).join(", "),
    value: map,
    interval,
    other: { name: "chance", value: chance },
  });
  $("map-words").textContent =
    `${definition.text} The interval says what is owed to the choice of queries, chance what a ranking at random reaches.`;
  const made = new Date(definition.created).toLocaleDateString("en", { dateStyle: "medium" });
  const facts = {
    "Median query": score(aps.median),
    "Worst tenth below": score(aps.p10),
    Queries: number.format(definition.queries),
    "Images ranked": number.format(definition.items),
    "Images without a label": number.format(definition.unlabelled_items),
    "Copies of queries": number.format(definition.copies_of_queries),
    "Accepted in groups": number.format(definition.grouped_items),
    Images: definition.dataset,
    Labels: definition.labels,
    Backbone: definition.backbone,
    Rule: definition.rule,
    Encoder: definition.encoder_id,
    Made: made,
  };
  $("map-facts").replaceChildren(
    ...Object.entries(facts)
      .filter(([, value]) => value !== null)
      .map(fact),
  );
  drawClasses(classes);
}

function drawClasses(classes) {
  const sorted = [...classes].sort((a, b) => (a.aps ?? 2) - (b.aps ?? 2));
  const place = element("div");
  const headings = ["Label", "APS", "Queries", "Images"];
  $("class-bars").replaceChildren(
    scrolling("Average precision score of each label", place),
    asTable("Average precision score of each label", headings, () =>
      sorted.map(({ label, aps, queries, items }) => [label, score(aps), number.format(queries), number.format(items)]),
    ),
  );
  bars(place, {
    title: "Average precision score of each label",
    description: "A bar for each label, the lowest first; the table below has the numbers.",
    rows: sorted.map(({ label, aps, queries, items }) => ({
      name: label,
      value: aps,
      text: score(aps),
      note: `${queryCount(queries)}, ${plural(items, "image")}`,
    })),
  });
}

// --- confused labels ----------------------------------------------------------------------------

function drawConfusion({ accuracy, nearest }) {
  const asked = new Map(); // label -> queries
  for (const { label, queries } of nearest) asked.set(label, (asked.get(label) ?? 0) + queries);
  const wrong = nearest.filter(({ label, nearest: other }) => label !== other);
  $("confusion-words").textContent =
    `Of all queries ${precise(accuracy)} have an image of their own label nearest.` +
    (wrong.length === 0 ? " No labels are confused." : "");
  const list = table(
    "Labels that are confused most often",
    ["Label", "Taken for", "Queries", "Share"],
    wrong
      .slice(0, PAIRS)
      .map(({ label, nearest: other, queries }) => [
        label,
        other,
        `${counted(queries)} of ${counted(asked.get(label))}`,
        precise(queries / asked.get(label)),
      ]),
  );
  $("confusion").replaceChildren(
    ...(wrong.length === 0 ? [] : [scrolling("Labels that are confused most often", list)]),
    ...(wrong.length > PAIRS
      ? [element("p", { textContent: `… and ${plural(wrong.length - PAIRS, "rarer pair")}.` })]
      : []),
    ...heatMap(nearest, asked),
  );
}

/** The table of all labels with all, each cell tinted by its share of the row. */
function heatMap(nearest, asked) {
  const names = [...new Set(nearest.flatMap(({ label, nearest: other }) => [label, other]))];
  if (names.length > WIDEST) return [];
  names.sort(new Intl.Collator("en", { numeric: true }).compare);
  const at = new Map();
  for (const { label, nearest: other, queries } of nearest)
    at.set(`${names.indexOf(label)} ${names.indexOf(other)}`, queries);
  const cells = names.map((label, row) => [
    label,
    ...names.map((_, column) => {
      const queries = at.get(`${row} ${column}`) ?? 0;
      const cell = element("span", { textContent: queries === 0 ? "·" : counted(queries) });
      if (queries > 0) {
        cell.className = row === column ? "right" : "wrong";
        cell.style.setProperty("--share", queries / asked.get(label));
      }
      return cell;
    }),
  ]);
  const caption = "Rows: the query's label; columns: the label of its nearest image";
  const map = table(caption, ["", ...names], cells);
  map.className = names.some((name) => name.length > SHORT) ? "heat upright" : "heat";
  const words = `${caption}. Right answers lie on the diagonal.`;
  return [element("p", { className: "meaning", textContent: words }), scrolling(caption, map)];
}

const counted = (queries) => number.format(Math.round(10 * queries) / 10); // parts of a query come from ties

// --- distances ----------------------------------------------------------------------------------

function drawCurve(answer) {
  curve = { ...answer, pairs: answer.same_class.map((same, i) => same + answer.other_class[i]) };
  const last = Math.max(
    1,
    curve.pairs.findLastIndex((pairs) => pairs > 0),
  );
  $("at-distance").max = last;
  $("distance-reading").hidden = false;
  const radii = curve.radius.slice(0, last + 1);
  marks = [drawPrecisionRecall(radii), drawRadii(radii, last), drawPairs(last)];
  pick(Math.min(last, Number($("at-distance").dataset.picked ?? telling(last))));
}

/** The largest distance that still has a certainty of nine tenths; without one, the nearest with pairs. */
function telling(last) {
  const certain = curve.precision_at.slice(0, last + 1).findLastIndex((share) => share >= 0.9);
  return Math.max(
    certain,
    curve.pairs.findIndex((pairs) => pairs > 0),
  );
}

function pick(distance) {
  $("at-distance").value = $("at-distance").dataset.picked = distance;
  const words = reading(distance);
  $("distance-words").textContent = words;
  $("at-distance").setAttribute("aria-valuetext", words);
  for (const mark of marks) mark(distance);
}

function reading(distance) {
  const { precision, recall, precision_at: certainty, same_class: same, other_class: other } = curve;
  return (
    `${bitCount(distance)}. Within it: precision ${precise(precision[distance])}, recall ${precise(recall[distance])}. ` +
    `At it: ${plural(same[distance], "pair")} of the same label, ${number.format(other[distance])} of others; ` +
    `certainty ${precise(certainty[distance])}.`
  );
}

const bitsAxis = (end) => ({ end, name: "distance in bits", form: number.format, binary: true });
const share = (name, draw, rest = {}) => ({ end: 1, name, form: percent, draw, ...rest });
const dot = (x, y, kind = "") => svg("circle", { cx: x, cy: y, r: 4.5, class: `dot ${kind}` });
const sum = (counts) => counts.reduce((a, b) => a + b, 0);

function drawPrecisionRecall(radii) {
  const { precision, recall } = curve;
  const chance = sum(curve.same_class) / sum(curve.pairs);
  $("curve-table").replaceChildren(
    legend(["line first", "within each distance"], ["line chance", `chance, ${precise(chance)}`]),
    asTable("Precision and recall within each distance", ["Distance", "Recall", "Precision"], () =>
      radii.map((radius) => [String(radius), precise(recall[radius]), precise(precision[radius])]),
    ),
  );
  const place = ({ x, y }, radius) => [x(recall[radius]), y(precision[radius])];
  return chart($("curve-chart"), {
    title: "Precision against recall, at each distance",
    description: `From recall ${precise(recall[0])} at precision ${precise(precision[0])} to all at chance.`,
    height: HEIGHT,
    x: { end: 1, name: "recall", form: percent },
    bands: [
      share("precision", (plot) => [
        line(
          [
            [plot.left, plot.y(chance)],
            [plot.right, plot.y(chance)],
          ],
          "chance",
        ),
        line(
          radii.map((radius) => place(plot, radius)),
          "first",
        ),
      ]),
    ],
    at: ([plot], x, y) =>
      nearestOf(radii, (radius) => {
        const [across, up] = place(plot, radius);
        return (across - x) ** 2 + (up - y) ** 2;
      }),
    picked: pick,
    cursor: ([plot], radius) => [dot(...place(plot, radius))],
  });
}

const nearestOf = (values, cost) => values.reduce((best, value) => (cost(value) < cost(best) ? value : best));

function drawRadii(radii, last) {
  const { precision, recall } = curve;
  $("radius-table").replaceChildren(
    legend(["line first", "precision"], ["line second", "recall"]),
    asTable("Precision and recall within each distance", ["Distance", "Precision", "Recall"], () =>
      radii.map((radius) => [String(radius), precise(precision[radius]), precise(recall[radius])]),
    ),
  );
  const along = ({ x, y }, values) => radii.map((radius) => [x(radius), y(values[radius])]);
  return chart($("radius-chart"), {
    title: "Precision and recall of everything within a distance",
    description: "Precision falls and recall rises as the distance grows; the table below has the numbers.",
    height: HEIGHT,
    x: bitsAxis(last),
    bands: [share("share", (plot) => [line(along(plot, precision), "first"), line(along(plot, recall), "second")])],
    at: ([plot], x) => within(Math.round(((x - plot.left) / (plot.right - plot.left)) * last), last),
    picked: pick,
    cursor: ([plot], radius) => [
      upright(plot, plot.x(radius)),
      dot(plot.x(radius), plot.y(precision[radius])),
      dot(plot.x(radius), plot.y(recall[radius]), "second"),
    ],
  });
}

function drawPairs(last) {
  const { same_class: same, other_class: other, precision_at: certainty } = curve;
  const shares = (counts) => {
    const total = Math.max(1, sum(counts));
    return counts.slice(0, last + 1).map((count) => count / total);
  };
  const [near, far] = [shares(same), shares(other)];
  $("pairs-table").replaceChildren(
    legend(
      ["steps first", "pairs of the same label"],
      ["steps second", "pairs of other labels"],
      ["line first", "certainty"],
    ),
    asTable(
      "Pairs of a query and an image at each distance",
      ["Distance", "Same label", "Other labels", "Certainty"],
      () => near.map((_, i) => [String(i), number.format(same[i]), number.format(other[i]), precise(certainty[i])]),
    ),
  );
  const middle = ({ x }, i) => x(i + 0.5);
  return chart($("pairs-chart"), {
    title: "Distances of pairs of the same label and of other labels, and the certainty of each distance",
    description: "Above, the share of images at each distance that have the query's label; below, two histograms.",
    height: 360,
    x: bitsAxis(last + 1),
    bands: [
      share(
        "certainty",
        (plot) => [
          line(
            near.map((_, i) => [middle(plot, i), plot.y(certainty[i])]),
            "first",
          ),
        ],
        { share: 0.34 },
      ),
      {
        share: 0.66,
        end: 1.05 * Math.max(...near, ...far),
        name: "share of the pairs of each kind",
        form: (value) => `${Number((100 * value).toPrecision(2))} %`,
        draw: (plot) => [steps(plot, far, "second"), steps(plot, near, "first")],
      },
    ],
    at: ([plot], x) => within(Math.floor(((x - plot.left) / (plot.right - plot.left)) * (last + 1)), last),
    picked: pick,
    cursor: (plots, distance) => [
      ...plots.map((plot) => upright(plot, middle(plot, distance))),
      dot(middle(plots[0], distance), plots[0].y(certainty[distance])),
    ],
  });
}

// --- queries ------------------------------------------------------------------------------------

async function queryPage(get, after = null) {
  const wanted = chosen();
  wanted.set("order", $("queries-order").value);
  wanted.set("limit", QUERIES);
  if (after !== null) wanted.set("after", after);
  const { queries, next } = await get(`eval/queries?${wanted}`);
  const found = await Promise.all(queries.map(({ id }) => get(`images/${id}/similar?k=${NEAREST}`)));
  return { next, queries: queries.map((query, i) => ({ ...query, results: found[i].results })) };
}

function queryRow(query) {
  const { id, label, aps, results } = query;
  const asked = imageLink(
    query,
    `Query ${id}, ${label}, average precision ${score(aps)}`,
    { className: "asked" },
    element("strong", { textContent: label, title: label }),
    element("small", { textContent: `AP ${score(aps)}` }),
  );
  const nearest = results.map((result) => resultOf(label, result));
  return element("li", {}, asked, strip(`Nearest to query ${id}`, nearest));
}

const VERDICTS = { right: "✓", wrong: "✗", unknown: "?" };

function resultOf(wanted, result) {
  const { label, distance } = result;
  const verdict = label === null ? "unknown" : label === wanted ? "right" : "wrong";
  const name = label ?? "no label";
  const title = `${name}, ${verdict}, ${bitCount(distance)} away`;
  const link = imageLink(
    result,
    title,
    { className: verdict, title },
    element("strong", { textContent: name }),
    element(
      "small",
      { textContent: `${VERDICTS[verdict]} ${distance}` },
      element("span", { className: "unit", textContent: distance === 1 ? " bit" : " bits" }),
    ),
  );
  link.dataset.distance = distance;
  return link;
}

$("map-options").addEventListener("submit", (event) => event.preventDefault());
$("map-options").addEventListener("change", measure);
$("queries-options").addEventListener("submit", (event) => event.preventDefault());
$("queries-options").addEventListener("change", () => showQueries((get) => queryPage(get)));
$("at-distance").addEventListener("input", () => pick(Number($("at-distance").value)));
addEventListener("measured", () => !view.hidden && open());

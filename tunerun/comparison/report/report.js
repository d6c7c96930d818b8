// The parts of a report that a reader can change: plots, and answers row by row. No text becomes HTML here.

/* global Chart */
"use strict";

(() => {
  const ROWS_ON_A_PAGE = 20;
  const MARKS_AT_FIRST = 30;
  const CURVES_AT_FIRST = 8;
  const SERIES_NAMED = 7; // as many as there are colours; of more, the ones with the best point
  const FAR = 1e8; // an end of an interval beyond this is infinite

  const one = (selector) => document.querySelector(selector);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const say = (text) => { one("#announcer").textContent = text; };

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  async function unpack(text) {
    const chars = atob(text);
    const bytes = new Uint8Array(chars.length); // Uint8Array.from with a function takes three times as long
    for (let at = 0; at < chars.length; at += 1) bytes[at] = chars.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  // Plots

  const DASHES = [[6, 4], [2, 3], [9, 3, 2, 3], [12, 4]];
  const SHAPES = { advised: "rectRot", tied: "circle", point: "circle", baseline: "rect" };
  const SAID = { advised: "advised", tied: "cannot be distinguished from the best", point: "other point", baseline: "baseline" };

  const series = (index) => { const all = css("--series").split(" "); return all[index % all.length]; };
  const colourOf = { advised: () => css("--accent"), tied: () => css("--accent"), point: () => css("--soft"), baseline: () => css("--care") };
  const finite = (values) => values.filter((value) => value !== null && Math.abs(value) < FAR);

  // Lines that values are compared with, and the intervals of marks.
  const extras = {
    id: "extras",
    beforeDatasetsDraw(chart, _arguments, { lines = [], along = "x" }) {
      const { ctx, chartArea: area, scales } = chart;
      lines.forEach((line, index) => {
        const at = scales[along].getPixelForValue(line.value);
        ctx.save();
        ctx.strokeStyle = css("--care");
        ctx.lineWidth = 1.5;
        ctx.setLineDash(DASHES[index % DASHES.length]);
        ctx.beginPath();
        if (along === "x") { ctx.moveTo(at, area.top); ctx.lineTo(at, area.bottom); } else { ctx.moveTo(area.left, at); ctx.lineTo(area.right, at); }
        ctx.stroke();
        ctx.restore();
      });
      chart.data.datasets.forEach((set, index) => {
        const elements = chart.getDatasetMeta(index).data;
        ctx.save();
        ctx.beginPath();
        ctx.rect(area.left, area.top, area.right - area.left, area.bottom - area.top);
        ctx.clip();
        set.data.forEach((datum, place) => {
          if (datum.low === undefined || datum.low === null) return;
          const { x, y } = elements[place].getProps(["x", "y"], true);
          const [from, to] = [datum.low, datum.high].map((value) => scales[along].getPixelForValue(value));
          ctx.strokeStyle = Array.isArray(set.borderColor) ? set.borderColor[place] : set.borderColor;
          ctx.lineWidth = 2;
          ctx.beginPath();
          for (const [a, b] of [[from, to], [from, from], [to, to]]) {
            const cap = a === b ? 4 : 0;
            if (along === "x") { ctx.moveTo(a, y - cap); ctx.lineTo(b, y + cap); } else { ctx.moveTo(x - cap, a); ctx.lineTo(x + cap, b); }
          }
          ctx.stroke();
        });
        ctx.restore();
      });
    },
  };

  // A canvas that is reached by Tab; arrow keys go from mark to mark, and each is read out.
  function canvasOf(box, name) {
    box.replaceChildren(make("canvas", { tabindex: "0", role: "img", "aria-label": `${name}. Arrow keys go through the marks; the same values are in the table below.` }));
    return box.firstChild;
  }

  function byKeyboard(canvas, chart) {
    let at = -1;
    const marks = () => chart.data.datasets.flatMap((set, datasetIndex) =>
      chart.isDatasetVisible(datasetIndex) ? set.data.map((_datum, index) => ({ datasetIndex, index })) : []);
    const show = (active) => {
      chart.setActiveElements(active);
      const place = active.length ? chart.getDatasetMeta(active[0].datasetIndex).data[active[0].index].getCenterPoint() : { x: 0, y: 0 };
      chart.tooltip.setActiveElements(active, place);
      chart.update("none");
      if (active.length) say(chart.data.datasets[active[0].datasetIndex].data[active[0].index].words);
    };
    canvas.addEventListener("keydown", (event) => {
      const all = marks();
      const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
      if (event.key in steps && all.length) at = (at + steps[event.key] + all.length) % all.length;
      else if (event.key === "Home") at = 0;
      else if (event.key === "End") at = all.length - 1;
      else if (event.key === "Escape") at = -1;
      else return;
      event.preventDefault();
      show(at < 0 || !all.length ? [] : [all[at]]);
    });
    canvas.addEventListener("blur", () => { at = -1; show([]); });
  }

  const charts = new Map();
  function draw(id, name, height, config) {
    charts.get(id)?.destroy();
    const box = one(id);
    box.style.height = `${height}px`;
    const canvas = canvasOf(box, name);
    const chart = new Chart(canvas, config);
    charts.set(id, chart);
    byKeyboard(canvas, chart);
    return chart;
  }

  const fold = (text, most) => {
    const lines = [];
    for (const word of text.split(/(?<=[\s,])/)) {
      if (lines.length && (lines.at(-1) + word).trimEnd().length <= most) lines[lines.length - 1] += word;
      else lines.push(word);
    }
    return lines.map((line) => line.trimEnd().length > most ? `${line.slice(0, most - 1)}…` : line.trimEnd());
  };

  function scale(title, more = {}) {
    return {
      title: { display: Boolean(title), text: title, color: css("--soft") },
      grid: { color: css("--line") },
      border: { display: false },
      ...more,
      ticks: { color: css("--ink"), ...more.ticks },
    };
  }

  function options(scales, extra) {
    return {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      font: { family: "system-ui, sans-serif" },
      scales,
      interaction: { mode: "nearest", intersect: false, axis: extra.along === "x" ? "y" : "xy" },
      plugins: {
        legend: { display: false },
        extras: extra,
        tooltip: {
          displayColors: false,
          backgroundColor: css("--ink"),
          bodyColor: css("--card"),
          titleColor: css("--card"),
          callbacks: {
            title: () => "",
            label: (context) => context.raw.words.split("; ").flatMap((part) => fold(part, window.innerWidth < 700 ? 34 : 70)),
          },
        },
      },
    };
  }

  // The scale rounds both ends to whole steps; a far end of an interval is cut at the edge.
  const range = (values) => ({ suggestedMin: Math.min(...finite(values)), suggestedMax: Math.max(...finite(values)) });

  // A mark beside a word: what is drawn, in the legend under the plot.
  function key(kind, words, dash) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", "22"); svg.setAttribute("height", "12"); svg.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const paths = { advised: "M11 0 L17 6 L11 12 L5 6 Z", baseline: "M6 1 H16 V11 H6 Z", line: "M0 6 H22" };
    shape.setAttribute("d", paths[kind] ?? "M11 1 A5 5 0 1 1 10.99 1 Z");
    const colour = dash || kind === "baseline" ? "var(--care)" : kind === "point" ? "var(--soft)" : "var(--accent)";
    shape.setAttribute("stroke", colour); shape.setAttribute("stroke-width", "2");
    shape.setAttribute("fill", dash || kind === "point" ? "none" : colour);
    if (dash) shape.setAttribute("stroke-dasharray", dash.join(" "));
    svg.append(shape);
    return make("span", { class: "key" }, svg, words);
  }

  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
  const linesLegend = (lines) => lines.map((line, index) => key("line", line.words, DASHES[index % DASHES.length]));

  let showsAllMarks = false;
  function drawIntervals(report) {
    const plot = report.intervals[Number(one("#interval-choice").value)];
    const button = one("#interval-all");
    const foot = plot.marks.filter((mark) => mark.standing === "baseline");
    let points = plot.marks.filter((mark) => mark.standing !== "baseline");
    button.hidden = points.length <= MARKS_AT_FIRST;
    button.textContent = showsAllMarks ? `Show the ${MARKS_AT_FIRST} best` : `Show all ${points.length} points`;
    if (!showsAllMarks) points = points.filter((mark, index) => index < MARKS_AT_FIRST || mark.standing === "advised");
    const marks = [...points, ...foot];
    const width = one("#interval-plot").clientWidth;
    const most = Math.max(12, Math.floor((width * 0.36) / 6.6));
    const names = marks.map((mark) => fold(mark.name, most));
    const colours = marks.map((mark) => colourOf[mark.standing]());
    const values = [...marks.flatMap((mark) => [mark.low, mark.value, mark.high]), ...plot.lines.map((line) => line.value)];
    const tallest = Math.max(...names.map((lines) => lines.length));
    draw("#interval-plot", plot.name, Math.max(120, marks.length * Math.max(26, 8 + 15 * tallest) + 62), {
      type: "scatter",
      plugins: [extras],
      data: { datasets: [{
        data: marks.map((mark, y) => ({ x: mark.value, y, low: mark.low, high: mark.high, words: `${mark.name}; ${mark.words}` })),
        pointStyle: marks.map((mark) => SHAPES[mark.standing]),
        pointRadius: marks.map((mark) => mark.standing === "advised" ? 8 : 5),
        pointHoverRadius: 9,
        borderColor: colours,
        borderWidth: 2,
        backgroundColor: marks.map((mark, index) => mark.standing === "point" ? css("--card") : colours[index]),
        hoverBackgroundColor: colours,
      }] },
      options: options({
        x: scale(plot.unit, { ...range(values) , ticks: { maxTicksLimit: width < 500 ? 5 : 9 } }),
        y: scale("", {
          reverse: true, min: -0.6, max: marks.length - 0.4, grid: { display: false },
          afterBuildTicks: (axis) => { axis.ticks = marks.map((_mark, value) => ({ value })); },
          ticks: { autoSkip: false, crossAlign: "far", callback: (value) => names[value] },
        }),
      }, { lines: plot.lines, along: "x" }),
    });
    const kinds = ["advised", "tied", "point", "baseline"].filter((kind) => marks.some((mark) => mark.standing === kind));
    one("#interval-legend").replaceChildren(...kinds.map((kind) => key(kind, SAID[kind])), ...linesLegend(plot.lines));
  }

  function drawAxis(report) {
    const plot = report.axes[Number(one("#axis-choice").value)];
    const values = plot.series.flatMap((group) => group.places.flatMap(({ mark }) => [mark.low, mark.value, mark.high]));
    const places = plot.series.flatMap((group) => group.places.map((place) => place.at));
    const isNumeric = !plot.categories.length;
    const steps = [...new Set(places)].sort((a, b) => a - b);
    // Series at one place would hide each other's intervals: each is moved a little aside.
    const aside = (index) => (plot.series.length < 2 ? 0 : (index / (plot.series.length - 1) - 0.5) * Math.min(0.5, 0.08 * plot.series.length));
    const gap = steps.length > 1 ? Math.min(...steps.slice(1).map((at, index) => at - steps[index])) : 1;
    const moved = (at, index) => plot.is_log ? at * (1 + 0.12 * aside(index)) : at + gap * 0.4 * aside(index);
    const width = one("#axis-plot").clientWidth;
    const named = namedSeries(plot);
    const colour = (index) => (named.has(index) ? series([...named].indexOf(index)) : css("--edge"));
    const end = isNumeric && plot.is_log ? { min: steps[0] / 1.3, max: steps.at(-1) * 1.3 } : { min: steps[0] - gap * 0.4, max: steps.at(-1) + gap * 0.4 };
    draw("#axis-plot", plot.name, 340, {
      type: "line",
      plugins: [extras],
      data: { datasets: plot.series.map((group, index) => ({
        data: group.places.map(({ at, mark }) => ({ x: moved(at, index), y: mark.value, low: named.has(index) ? mark.low : null, high: mark.high, words: `${mark.name}; ${mark.words}` })),
        showLine: isNumeric,
        borderColor: colour(index),
        backgroundColor: group.places.map(({ mark }) => mark.standing === "point" ? css("--card") : colour(index)),
        pointStyle: group.places.map(({ mark }) => SHAPES[mark.standing]),
        pointRadius: group.places.map(({ mark }) => mark.standing === "advised" ? 8 : named.has(index) ? 5 : 2),
        pointHoverRadius: 9,
        borderWidth: named.has(index) ? 2 : 1,
        order: named.has(index) ? 0 : 1,
      })) },
      options: options({
        x: scale(plot.axis, {
          type: isNumeric && plot.is_log ? "logarithmic" : "linear", ...end,
          afterBuildTicks: (axis) => { if (steps.length <= 12) axis.ticks = steps.map((value) => ({ value })); },
          ticks: { autoSkip: false, maxRotation: 45, callback: (value) => isNumeric ? number(value) : fold(plot.categories[value] ?? "", width < 500 ? 14 : 28) },
        }),
        y: scale(plot.unit, range([...values, ...plot.lines.map((line) => line.value)])),
      }, { lines: plot.lines, along: "y" }),
    });
    const names = plot.series.length > 1 ? [...named].map((index) => legendLine(colour(index), plot.series[index].name)) : [];
    if (named.size < plot.series.length) names.push(legendLine(css("--edge"), `${plot.series.length - named.size} more`));
    one("#axis-legend").replaceChildren(...names, ...linesLegend(plot.lines));
  }

  // The series that get a colour: where there are more than colours, the ones that reach the best values.
  function namedSeries(plot) {
    const best = (group) => Math.max(...group.places.map(({ mark }) => (mark.standing === "advised" ? Infinity : plot.higher_is_better ? mark.value : -mark.value)));
    const ranked = plot.series.map((group, index) => [best(group), index]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    return new Set(ranked.slice(0, SERIES_NAMED).map(([, index]) => index).sort((a, b) => a - b));
  }

  function legendLine(colour, words) {
    const swatch = make("span", { class: "swatch" });
    swatch.style.color = colour;
    return make("span", { class: "key" }, swatch, words);
  }

  const shownCurves = new Set();
  function drawCurves(report) {
    const width = one("#curve-plot").clientWidth;
    const [training, validation] = ["#curve-training", "#curve-validation"].map((id) => one(id).checked);
    const sets = [];
    report.curves.forEach((curve, index) => {
      if (!shownCurves.has(index)) return;
      const common = {
        borderColor: series(index), backgroundColor: series(index), borderWidth: curve.standing === "advised" ? 3.5 : 1.8,
        pointHoverRadius: 6, normalized: true, clip: 8, order: curve.standing === "advised" ? 0 : 1,
      };
      const data = (points, kind) => points.map(([x, y]) => ({ x, y, words: `${curve.name}; ${kind} loss ${number(y)} after ${number(x)} epochs` }));
      if (training) sets.push({ ...common, data: data(curve.training, "training"), pointRadius: 0 });
      if (validation && curve.validation.length) sets.push({ ...common, data: data(curve.validation, "validation"), borderDash: [6, 4], showLine: curve.validation.length > 2, pointRadius: 4, pointStyle: "circle" });
    });
    const isLog = one("#curve-log").checked;
    draw("#curve-plot", "Loss curves", width < 500 ? 300 : 380, {
      type: "line",
      data: { datasets: sets },
      options: options({
        x: scale("epoch", { type: "linear", min: 0, ticks: { maxTicksLimit: 11 } }),
        y: scale("nats per output token", { type: isLog ? "logarithmic" : "linear", ...(isLog ? {} : { min: 0 }), ticks: { maxTicksLimit: 7, callback: number } }),
      }, { along: "y" }),
    });
    one("#curve-count").textContent = `${shownCurves.size} of ${report.curves.length}`;
  }

  function curveChoices(report) {
    const box = one("#curve-choices");
    const again = () => {
      [...box.querySelectorAll("input")].forEach((input, index) => { input.checked = shownCurves.has(index); });
      drawCurves(report);
    };
    const choose = (test) => {
      shownCurves.clear();
      report.curves.forEach((curve, index) => { if (test(curve)) shownCurves.add(index); });
      again();
    };
    box.replaceChildren(...report.curves.map((curve, index) => {
      const input = make("input", { type: "checkbox" });
      input.addEventListener("change", () => { shownCurves[input.checked ? "add" : "delete"](index); drawCurves(report); });
      const swatch = make("span", { class: "swatch", "data-series": index });
      return make("label", {}, input, swatch, curve.name);
    }));
    const colours = () => box.querySelectorAll(".swatch").forEach((swatch) => { swatch.style.color = series(Number(swatch.dataset.series)); });
    const order = { advised: 0, tied: 1, point: 2 };
    report.curves.map((curve, index) => [order[curve.standing], index]).sort((a, b) => a[0] - b[0] || a[1] - b[1])
      .slice(0, CURVES_AT_FIRST).forEach(([, index]) => shownCurves.add(index));
    if (report.curves.length <= 2 * CURVES_AT_FIRST) one("#curve-points").open = true;
    one("#curve-all").addEventListener("click", () => choose(() => true));
    one("#curve-none").addEventListener("click", () => choose(() => false));
    one("#curve-tied").addEventListener("click", () => choose((curve) => curve.standing !== "point"));
    for (const id of ["#curve-training", "#curve-validation", "#curve-log"]) one(id).addEventListener("change", () => drawCurves(report));
    colours();
    again();
    return colours;
  }

  // Answers

  const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/u;

  function shownText(text, wanted) {
    const box = make("span", { class: "text", dir: "auto" });
    if (!text) { box.append(make("span", { class: "empty" }, "(empty)")); return box; }
    const parts = text.split(new RegExp(`(${UNSEEN.source})`, "u"));
    for (const part of parts) {
      if (part.length === 1 && UNSEEN.test(part)) box.append(make("span", { class: "code" }, `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
      else box.append(...highlighted(part, wanted));
    }
    return box;
  }

  function highlighted(text, wanted) {
    if (!wanted) return [text];
    const found = [];
    const low = text.toLowerCase();
    if (low.length !== text.length) return [text]; // in a few scripts, small letters are more than large ones
    let from = 0;
    for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
      found.push(text.slice(from, at), make("mark", {}, text.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
    found.push(text.slice(from));
    return found;
  }

  function answersSection(answers) {
    const shown = new Set(answers.columns.flatMap((column, index) => (column[3] ? [index] : [])));
    let page = 0;
    const indexes = (row, column) => answers.given[column].map((trial) => trial[row]);
    const tests = {
      all: () => true,
      disagree: (_row, right) => right.some(Boolean) && !right.every(Boolean),
      differ: (row) => new Set([...shown].flatMap((c) => indexes(row, c).map((index) => answers.rows[row][2][index].trim()))).size > 1,
      wrong: (_row, right) => right.length > 0 && !right.some(Boolean),
    };

    function chosen() {
      const test = tests[one("#answer-filter").value];
      const wanted = one("#answer-search").value.trim().toLowerCase();
      const found = [];
      answers.rows.forEach(([input, expected, texts, right], row) => {
        const given = [...shown].flatMap((column) => indexes(row, column));
        if (!test(row, given.map((index) => right[index]))) return;
        if (wanted && ![input, expected, ...given.map((index) => texts[index])].some((text) => text.toLowerCase().includes(wanted))) return;
        found.push(row);
      });
      return [found, wanted];
    }

    function cell(row, column, wanted) {
      const counts = new Map();
      for (const index of indexes(row, column)) counts.set(index, (counts.get(index) ?? 0) + 1);
      const seeds = answers.given[column].length;
      const [, , texts, right] = answers.rows[row];
      return [...counts].map(([index, count]) => make("div", { class: "given" },
        make("span", { class: `mark ${right[index] ? "is-right" : "is-wrong"}`, role: "img", "aria-label": right[index] ? "right" : "wrong" }, right[index] ? "✓" : "✗"),
        make("span", {}, shownText(texts[index], wanted), ...(seeds > 1 ? [make("span", { class: "seeds" }, `${count} of ${seeds} seeds`)] : []))));
    }

    function show() {
      const [found, wanted] = chosen();
      const pages = Math.max(1, Math.ceil(found.length / ROWS_ON_A_PAGE));
      page = Math.min(page, pages - 1);
      const rows = found.slice(page * ROWS_ON_A_PAGE, (page + 1) * ROWS_ON_A_PAGE);
      const heads = ["row", "input", "expected", ...[...shown].map((column) => answers.columns[column][1])];
      one("#answer-table thead").replaceChildren(make("tr", {}, ...heads.map((name, index) => make("th", { scope: "col", ...(index > 2 ? { title: answers.columns[[...shown][index - 3]][0] } : {}) }, name))));
      one("#answer-table tbody").replaceChildren(...rows.map((row) => {
        const [input, expected] = answers.rows[row];
        return make("tr", {},
          make("th", { scope: "row", "data-name": "row" }, String(row + 1)),
          make("td", { "data-name": "input" }, make("div", {}, shownText(input, wanted))),
          make("td", { "data-name": "expected" }, make("div", {}, shownText(expected, wanted))),
          ...[...shown].map((column) => make("td", { "data-name": answers.columns[column][1] }, make("div", {}, ...cell(row, column, wanted)))));
      }));
      one("#answer-status").textContent = `${found.length} of ${answers.rows.length} rows`;
      one("#page-place").textContent = found.length ? `rows ${page * ROWS_ON_A_PAGE + 1} to ${page * ROWS_ON_A_PAGE + rows.length} of ${found.length}` : "no such rows";
      one("#page-before").disabled = page === 0;
      one("#page-after").disabled = page >= pages - 1;
      one("#column-count").textContent = `${shown.size} of ${answers.columns.length}`;
    }

    const from = (step) => () => { page += step; show(); one("#answer-box").scrollTop = 0; };
    const first = () => { page = 0; show(); };
    one("#answer-filter").addEventListener("change", first);
    one("#answer-search").addEventListener("input", first);
    one("#page-before").addEventListener("click", from(-1));
    one("#page-after").addEventListener("click", from(1));
    one("#column-choices").replaceChildren(...answers.columns.map(([name], index) => {
      const input = make("input", { type: "checkbox", ...(shown.has(index) ? { checked: "" } : {}) });
      input.addEventListener("change", () => {
        shown[input.checked ? "add" : "delete"](index);
        const ordered = [...shown].sort((a, b) => a - b);
        shown.clear();
        ordered.forEach((column) => shown.add(column));
        first();
      });
      return make("label", {}, input, name);
    }));
    show();
  }

  // Everything

  async function begin() {
    const report = await unpack(one("#packed").textContent);
    Chart.defaults.font.family = "system-ui, sans-serif";
    const drawers = [];
    if (report.intervals.length) {
      const again = () => drawIntervals(report);
      one("#interval-choice").addEventListener("change", again);
      one("#interval-all").addEventListener("click", () => { showsAllMarks = !showsAllMarks; again(); });
      drawers.push(again);
    }
    if (report.axes.length) {
      const again = () => drawAxis(report);
      one("#axis-choice").addEventListener("change", again);
      drawers.push(again);
    }
    drawers.forEach((again) => again());
    if (report.curves.length) {
      const colours = curveChoices(report);
      drawers.push(() => { colours(); drawCurves(report); });
    }
    if (report.answers.rows) answersSection(report.answers);
    const redraw = () => drawers.forEach((again) => again());
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    let width = window.innerWidth;
    window.addEventListener("resize", () => { if (width !== window.innerWidth) { width = window.innerWidth; redraw(); } });
    window.addEventListener("beforeprint", () => { document.documentElement.classList.add("printing"); redraw(); });
    window.addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); redraw(); });
    document.documentElement.dataset.ready = "true";
  }

  begin().catch((error) => {
    const problem = one("#problem");
    problem.textContent = `The plots and the answers cannot be shown by this browser (${error}); the tables are complete. Chromium and Edge from 80, Firefox from 113 and Safari from 16.4 show them.`;
    problem.hidden = false;
    console.error(error);
  });
})();

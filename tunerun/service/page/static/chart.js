// Loss curves, drawn by uPlot in the colours of the page.

/* global uPlot */

const HEIGHT = 190;
const WHOLE_STEPS = [1, 2, 5].flatMap((n) => [...Array(9).keys()].map((power) => n * 10 ** power)).sort((a, b) => a - b);

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const COLOURS = ["--accent", "--second"];

function curve(label, number) {
  return {
    label,
    stroke: () => colour(COLOURS[number]),
    dash: number === 0 ? undefined : [6, 4], // told apart without colours too
    width: 2,
    spanGaps: true, // two curves need not have the same steps
    value: (_chart, loss) => (loss === null ? "–" : loss.toFixed(4)),
  };
}

function options(width, labels) {
  const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: false } },
    axes: [
      { ...axis, label: "step", labelSize: 18, size: 28, incrs: WHOLE_STEPS, space: 40 },
      { ...axis, size: 52, space: 30 },
    ],
    series: [
      { label: "Step", value: (_chart, step) => (step === null ? "–" : String(step)) },
      ...labels.map(curve),
    ],
  };
}

// Draws columns (steps, and losses by label) into a box that is as wide as its place; `show` replaces them.
export function drawChart(box, columns, labels = ["Mean loss"]) {
  const chart = new uPlot(options(box.clientWidth, labels), columns, box);
  new ResizeObserver(() => {
    if (box.clientWidth > 0) chart.setSize({ width: box.clientWidth, height: HEIGHT });
  }).observe(box);
  dark.addEventListener("change", () => chart.redraw());
  return { show: (next) => chart.setData(next) };
}

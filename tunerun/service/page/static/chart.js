// A loss curve, drawn by uPlot in the colours of the page.

/* global uPlot */

const HEIGHT = 190;
const WHOLE_STEPS = [1, 2, 5].flatMap((n) => [...Array(9).keys()].map((power) => n * 10 ** power)).sort((a, b) => a - b);

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(width) {
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
      {
        label: "Mean loss",
        stroke: () => colour("--accent"),
        width: 2,
        value: (_chart, loss) => (loss === null ? "–" : loss.toFixed(4)),
      },
    ],
  };
}

// Draws columns (steps, losses) into a box that is as wide as its place; `show` replaces them.
export function drawChart(box, columns) {
  const chart = new uPlot(options(box.clientWidth), columns, box);
  new ResizeObserver(() => {
    if (box.clientWidth > 0) chart.setSize({ width: box.clientWidth, height: HEIGHT });
  }).observe(box);
  dark.addEventListener("change", () => chart.redraw());
  return { show: (next) => chart.setData(next) };
}

// Draws the curves of two tuned models in one chart, from the tables that the page has of each.

import { drawChart } from "./chart.js";

function curveOf(box) {
  const rows = [...box.querySelectorAll("tbody tr")];
  return new Map(rows.map((row) => [Number(row.cells[0].textContent), Number(row.cells[2].textContent)]));
}

const boxes = [...document.querySelectorAll("[data-curve]")];
const curves = boxes.map(curveOf);
const steps = [...new Set(curves.flatMap((curve) => [...curve.keys()]))].sort((a, b) => a - b);
if (steps.length > 0) {
  const chart = document.getElementById("both");
  chart.hidden = false;
  const columns = curves.map((curve) => steps.map((step) => curve.get(step) ?? null));
  drawChart(chart, [steps, ...columns], boxes.map((box) => box.dataset.title));
}

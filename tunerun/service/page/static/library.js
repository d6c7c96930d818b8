// Keeps the library up to date: charts, progress once a second while a job is under way, answers in their place.
// Everything that it shows is in the page without it too.

import { drawChart } from "./chart.js";

const POLL_MS = 1000;
const RETRY_MS = 5000;
const ANNOUNCED_PERCENT = 25; // steps in which progress is read out; every second would be too much

const charts = new WeakMap(); // article -> chart
const announced = new WeakMap(); // article -> percent

function part(article, name) {
  return article.querySelector(`[data-part="${name}"]`);
}

function creating() {
  return [...document.querySelectorAll('[data-state="CREATING"]')];
}

function titleOf(article) {
  return article.querySelector("h1, h3").textContent;
}

function announce(text) {
  document.getElementById("announcer").textContent = text;
}

// The curve

function curveOf(article) {
  const rows = [...part(article, "curve").rows];
  return rows.map((row) => [...row.cells].map((cell) => Number(cell.textContent)));
}

function showCurve(article, curve) {
  if (curve.length === 0) return;
  const box = part(article, "chart");
  box.hidden = false;
  const columns = [curve.map((point) => point[0]), curve.map((point) => point[2])];
  if (charts.has(article)) charts.get(article).show(columns);
  else charts.set(article, drawChart(box, columns));
}

function fillTable(article, curve) {
  const body = part(article, "curve");
  const lines = curve.map(([step, epoch, loss]) => {
    const row = document.createElement("tr");
    for (const text of [step, epoch, loss === null ? "not finite" : loss.toFixed(4)]) {
      row.insertCell().textContent = text;
    }
    return row;
  });
  body.replaceChildren(...lines);
  part(article, "numbers").hidden = curve.length === 0;
}

// Progress

function showProgress(article, now) {
  part(article, "bar").value = now.percent;
  part(article, "progress").textContent = now.progress;
  if (now.loss === "") return;
  part(article, "loss").textContent = now.loss;
  fillTable(article, now.curve);
  showCurve(article, now.curve);
  const reached = now.percent - (now.percent % ANNOUNCED_PERCENT);
  if (reached > (announced.get(article) ?? 0)) {
    announced.set(article, reached);
    announce(`${titleOf(article)}: ${now.progress}, mean loss ${now.loss}`);
  }
}

// A tuned model that is finished has other facts and buttons, so its card is taken from a new page.
async function renew(article) {
  const isAlone = article.querySelector("h1") !== null;
  const response = await fetch(isAlone ? `/library/${article.dataset.model}` : `/${location.search}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const found = page.getElementById(article.id);
  if (found === null) {
    if (response.status !== 404 && page.getElementById("announcer") === null) return; // signed out: poll says so
    announce(`${titleOf(article)} was deleted`);
    article.remove();
    return;
  }
  const focused = article.contains(document.activeElement) ? document.activeElement.id : null;
  const card = document.importNode(found, true);
  for (const details of card.querySelectorAll("details[data-part]")) {
    details.open = part(article, details.dataset.part)?.open ?? details.open;
  }
  article.replaceWith(card);
  wake(card);
  if (focused !== null) (document.getElementById(focused) ?? card.querySelector("h1, h3")).focus();
  announce(`${titleOf(card)} is ${card.dataset.state}`);
}

async function poll() {
  if (creating().length === 0) return;
  const connection = document.getElementById("connection");
  let pause = POLL_MS;
  try {
    const response = await fetch("/progress");
    if (response.status === 401 || response.status === 403) {
      connection.textContent = "You are signed out. Load the page again to sign in.";
      connection.hidden = false;
      return;
    }
    if (!response.ok) throw new Error(response.statusText);
    const models = await response.json();
    for (const article of creating()) {
      const now = models[article.dataset.model];
      if (now) showProgress(article, now);
      else await renew(article);
    }
    connection.hidden = true;
  } catch {
    connection.textContent = "The service does not answer; trying again.";
    connection.hidden = false;
    pause = RETRY_MS;
  }
  setTimeout(poll, pause);
}

// The box to try a tuned model

async function ask(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  if (button.getAttribute("aria-disabled") === "true") return;
  const answers = document.getElementById(`answers-${form.dataset.try}`);
  button.setAttribute("aria-disabled", "true");
  answers.textContent = "Both are being asked …";
  try {
    const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const found = page.getElementById(answers.id) ?? page.querySelector(".problem");
    answers.replaceChildren(...document.importNode(found, true).childNodes);
  } catch {
    answers.textContent = "The service does not answer; ask again.";
  }
  button.removeAttribute("aria-disabled");
}

function wake(article) {
  showCurve(article, curveOf(article));
  article.querySelector("form[data-try]")?.addEventListener("submit", ask);
}

function checkSize(event) {
  const input = event.target;
  const most = Number(input.dataset.maxBytes);
  const isLarge = (input.files[0]?.size ?? 0) > most;
  input.setCustomValidity(isLarge ? `The file is over the limit of ${most.toLocaleString("en")} bytes.` : "");
}

// Programs to copy; a browser gives the clipboard to pages of this machine or over TLS alone.

async function copy(event) {
  const button = event.currentTarget;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
}

if (navigator.clipboard !== undefined) {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", copy);
  }
}

document.querySelectorAll("article[data-model]").forEach(wake);
document.getElementById("file")?.addEventListener("change", checkSize);
poll();

// The explorer: a history that one clicks together, what comes next after it, and why.

import * as api from "./api.js";
import { byId, describe, element, fill, itemButton, named, scoredRows, titleOf } from "./dom.js";
import { buildFilters, filters, onFilters } from "./filters.js";
import { followHistory, openPlaylists, playlistsPanel } from "./playlists.js";
import { searchBox } from "./search.js";

const LEFT_OUT = 50; // newest items of the history that "because of" leaves out, one after the other
const NAMED = 2; // of them, those that are named

let history = [];
const ask = api.latest((body, signal) => api.recommend(body, signal));
const askWithout = api.latest((body, signal) => api.recommendBatch(body, signal));

function failed(error) {
  byId("problem").textContent = error.message;
  byId("problem").hidden = false;
  byId("key-form").hidden = error.status !== 401;
  if (error.status === 401) byId("key").focus();
}

function add(item) {
  change([...history, { id: item.id, title: item.title }]);
}

function change(items) {
  history = items;
  const hash = items.length ? `#${encodeURIComponent(JSON.stringify(items.map((item) => item.id)))}` : "";
  window.history.replaceState(null, "", hash || window.location.pathname);
  showHistory();
  refresh();
  followHistory(history);
}

function showHistory() {
  const rows = history.map((item, place) => {
    const remove = itemButton("Remove", item, () => change(history.filter((_, at) => at !== place)));
    const like = itemButton("Similar", item, () => showSimilar(item));
    return element("li", {}, titleOf(item), element("span", { className: "actions" }, like, remove));
  });
  const cleared = document.activeElement === byId("clear");
  const kept = fill(byId("history"), rows);
  byId("history-empty").hidden = history.length > 0;
  byId("clear").hidden = history.length === 0;
  if (!kept || cleared) byId("search").focus();
}

async function refresh() {
  const asked = { ...filters(), history: history.map((item) => item.id) };
  try {
    const start = performance.now();
    const answer = await ask(asked);
    if (!answer) return; // a newer question is on its way
    const took = performance.now() - start;
    byId("problem").hidden = true;
    byId("version").textContent = `model ${answer.model_version}`;
    const told = [`${answer.items.length} items in ${took.toFixed(0)} ms`];
    if (answer.fallback) told.push(answer.fallback);
    if (answer.fewer_because) told.push(answer.fewer_because);
    byId("status").textContent = told.join("; ");
    fill(byId("next-list"), scoredRows(answer.items, { Add: add, Similar: showSimilar }));
    if (!answer.fallback && answer.items.length) await showBecause(asked, answer);
  } catch (error) {
    failed(error);
  }
}

/** Under each answer, the items of the history without which it would score less: one request for all. */
async function showBecause(asked, answer) {
  const oldest = Math.max(history.length - LEFT_OUT, 0);
  const without = history.slice(oldest).map((_, at) => asked.history.filter((_, place) => place !== oldest + at));
  const lines = new Map(answer.items.map((item) => [item.id, history.slice(0, 1)]));
  if (history.length > 1) {
    const ids = answer.items.map((item) => item.id);
    const body = { histories: without, allow: ids, k: ids.length, exclude_seen: false };
    const found = await askWithout(body);
    if (!found) return;
    if (found.model_version !== answer.model_version) return refresh();
    for (const item of answer.items) {
      const drops = found.answers.map((each, at) => {
        const again = each.items.find((other) => other.id === item.id);
        return { item: history[oldest + at], drop: again && !each.fallback ? item.score - again.score : 0 };
      });
      const causes = drops.filter((each) => each.drop > 0).sort((a, b) => b.drop - a.drop);
      lines.set(item.id, causes.slice(0, NAMED).map((each) => each.item));
    }
  }
  [...byId("next-list").children].forEach((row, place) => {
    const causes = lines.get(answer.items[place].id);
    const told = causes.length ? `because of ${causes.map(named).join(" and ")}` : "because of no single item";
    row.append(element("p", { className: "because" }, told));
  });
}

async function showSimilar(item) {
  try {
    const answer = await api.similar({ item: item.id, ...filters() });
    byId("similar-title").textContent = `Similar to ${named(item)}`;
    fill(byId("similar-list"), scoredRows(answer.items, { Add: add, Similar: showSimilar }));
    byId("similar").hidden = false;
    byId("similar").focus();
  } catch (error) {
    failed(error);
  }
}

function showCard(card) {
  const index = card.index;
  describe(byId("card"), {
    model: card.model,
    version: card.model_version,
    made: card.created_at,
    data: card.data,
    content: card.data_digest?.slice(0, 12),
    "events until": card.trained_until,
    items: card.items.toLocaleString(),
    "fitted to": card.trained_on,
    "best epoch": card.best_epoch,
    search: index ? `${card.backend}, ${index.trees} trees` : card.backend,
    recall: index && `recall@${index.k} ${index.recall} of exact search (${index.asked_recall} was asked for)`,
  });
  describe(byId("versions"), card.packages);
  byId("metrics").replaceChildren(...metricRows(card.metrics));
  document.title = `${card.data ?? "recsys"}: explorer`;
}

/** A row for each metric, a column for validation and for test. */
function metricRows(metrics) {
  const splits = [...new Set(Object.keys(metrics).map((name) => name.split("_")[0]))];
  const names = [...new Set(Object.keys(metrics).map((name) => name.slice(name.indexOf("_") + 1)))];
  if (!names.length) return [element("caption", {}, "none are stored")];
  const head = ["metric", ...splits].map((text) => element("th", { scope: "col" }, text));
  const rows = names.map((name) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      ...splits.map((split) => element("td", {}, metrics[`${split}_${name}`]?.toFixed(4) ?? "")),
    ),
  );
  return [element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)];
}

/** The history that the address names, as far as the model knows it. */
async function historyOfAddress() {
  let ids = [];
  try {
    ids = JSON.parse(decodeURIComponent(window.location.hash.slice(1) || "[]"));
  } catch {
    return [];
  }
  const found = await Promise.all([ids].flat().slice(-LEFT_OUT).map(api.itemOf));
  return found.filter(Boolean);
}

async function open() {
  try {
    const card = await api.card();
    byId("key-form").hidden = true;
    buildFilters(card);
    showCard(card);
    openPlaylists(card.playlists);
    change(await historyOfAddress());
  } catch (error) {
    failed(error);
  }
}

searchBox(add, failed);
playlistsPanel({
  actions: { Add: add, Similar: showSimilar },
  addAll: (items) => change([...history, ...items]),
  replace: change,
  failed,
});
onFilters(refresh);
byId("clear").addEventListener("click", () => change([]));
byId("similar-close").addEventListener("click", () => {
  byId("similar").hidden = true;
  byId("next").focus();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useKey(byId("key").value);
  open();
});
open();

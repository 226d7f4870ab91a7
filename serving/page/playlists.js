// Stored playlists: those like the history (or like one of them), what may come next, and the map of all.

import * as api from "./api.js";
import { byId, element, fill, named, scoredRows } from "./dom.js";
import { filters } from "./filters.js";
import { playlistMap } from "./map.js";

const ALIKE = 5; // similar playlists shown
const NEWEST = 1000; // tracks of a history that may be asked about at once

const ask = api.latest((body, signal) => api.similarPlaylists(body, signal));
const askNext = api.latest((body, signal) => api.continuePlaylist(body, signal));
let page; // what the rest of the page does, see `playlistsPanel`
let served = false;
let history = [];
let stored = null; // the stored playlist that is asked about, instead of the history
let alike = []; // ids of the similar playlists shown
let turn = 0; // grows with what is asked about: an answer about something former is not shown
let map = null;

const subject = () =>
  stored ? { playlist: stored.id } : { tracks: history.slice(-NEWEST).map((track) => track.id) };

function about(playlist) {
  stored = playlist;
  byId("slates").replaceChildren();
  byId("slates-status").textContent = "";
  const what = stored ? `playlist ${named(stored)}` : "the history";
  byId("alike-title").textContent = `Similar to ${what}`;
  byId("continue-button").textContent = `Continue ${what}`;
  byId("to-history").hidden = !stored;
  refresh();
}

async function refresh() {
  if (!served) return;
  const mine = ++turn;
  const nothing = !stored && !history.length;
  byId("continue-button").disabled = nothing;
  try {
    const answer = nothing ? { playlists: [], unknown: [] } : await ask({ ...subject(), k: ALIKE });
    if (!answer || mine !== turn) return;
    const found = `${answer.playlists.length} found`;
    const told = [nothing ? "Add items to the history, or choose a playlist on the map" : found];
    if (answer.unknown.length) told.push(`${answer.unknown.length} items are unknown to the playlists`);
    if (answer.fewer_because) told.push(answer.fewer_because);
    showAlike(answer.playlists, told.join("; "));
  } catch (error) {
    if (error.status === 401) page.failed(error);
    showAlike([], error.message);
  }
}

function showAlike(playlists, told) {
  byId("alike-status").textContent = told;
  const rows = scoredRows(playlists, { Similar: about, "To history": take });
  rows.forEach((row, place) => {
    const { length, shared, tracks } = playlists[place];
    const detail = `${length} tracks, ${shared} shared: ${tracks.map(named).join(", ")}${length > tracks.length ? " ..." : ""}`;
    row.append(element("p", { className: "because" }, detail));
  });
  fill(byId("alike-list"), rows);
  alike = playlists.map((playlist) => playlist.id);
  map?.mark(alike);
}

/** The tracks of a stored playlist become the history. */
async function take(playlist) {
  try {
    const { tracks } = await api.playlistTracks(playlist.id);
    stored = null;
    page.replace(tracks.slice(-NEWEST));
    byId("history-panel").focus();
  } catch (error) {
    page.failed(error);
  }
}

async function continueIt() {
  const form = byId("continue-form").elements;
  const { exclude_seen: _, ...narrowed } = filters(); // what a playlist has never comes again
  const asked = { ...subject(), ...narrowed };
  if (form.groups.value) asked.diverse = { groups: Number(form.groups.value), attribute: form.attribute.value || null };
  byId("slates-status").textContent = "searching";
  const mine = turn;
  try {
    const answer = await askNext(asked);
    if (!answer || mine !== turn) return;
    const told = [`${answer.slates.length} found`];
    if (answer.fewer_because) told.push(answer.fewer_because);
    byId("slates-status").textContent = told.join("; ");
    byId("slates").replaceChildren(...answer.slates.flatMap(slateOf));
  } catch (error) {
    byId("slates-status").textContent = "";
    page.failed(error);
  }
}

function slateOf(tracks, place) {
  const name = `Slate ${place + 1}`;
  const all = element("button", { type: "button", onclick: () => page.addAll(tracks), "aria-label": `Add all of ${name}` }, "Add all");
  const list = element("ol", { className: "items", role: "list", "aria-label": name }, ...scoredRows(tracks, page.actions));
  return [element("h4", {}, name, " ", all), list];
}

/** Show what a model card says of playlists, if anything. */
export async function openPlaylists(card) {
  served = card !== null;
  byId("playlists").hidden = !served;
  if (!served) return;
  byId("playlists-title").textContent = `${card.playlists.toLocaleString()} playlists`;
  const costly = byId("continue-form").elements.attribute;
  costly.replaceChildren(costly.options[0], ...card.attributes.map((name) => element("option", { value: name }, name)));
  byId("map-part").hidden = !card.map;
  map = null;
  if (!card.map) return;
  try {
    map = playlistMap(await api.playlistMap(), { Similar: about, "To history": take });
    map.mark(alike);
  } catch (error) {
    page.failed(error);
  }
}

/** The history is another. */
export function followHistory(items) {
  history = items;
  if (served) about(null);
}

/**
 * Make the panel ready.
 *
 * `actions` can be done with a track, `addAll` takes tracks into the history, `replace` makes them the history,
 * and `failed` tells of an error.
 */
export function playlistsPanel(hooks) {
  page = hooks;
  byId("to-history").addEventListener("click", () => {
    about(null);
    byId("playlists").focus();
  });
  byId("continue-form").addEventListener("submit", (event) => {
    event.preventDefault();
    continueIt();
  });
}

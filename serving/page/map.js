// The map of playlists: points on a canvas, moved and zoomed by mouse, fingers, keys or buttons.

import { byId, element, itemButton, named } from "./dom.js";

const RADIUS = 3.5; // of a point
const REACH = 14; // pixels from a point at which it is meant
const MARGIN = 0.04; // of the map, around the points
const FARTHEST = 40; // times that it zooms in
const STEP = 1.5; // of a key or button that zooms
const KEYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
const NO_LABEL = -1;

const canvas = () => byId("map");
let shown = null; // the map that the canvas stands for

/** Show points as `v1/playlists/map` gives them; `actions` can be done with a playlist. */
export function playlistMap(points, actions) {
  const size = points.ids.length;
  const order = [...points.ids.keys()].sort((a, b) => points.label[a] - points.label[b]); // no label below all
  const view = { scale: 1, left: 0, top: 0 };
  const off = new Set(); // labels whose points are hidden
  let marked = new Set();
  let chosen = -1;
  let hovered = -1;

  const playlist = (at) => ({ id: points.ids[at], title: points.titles[at] });
  const visible = (at) => !off.has(points.label[at]);
  const place = (at) => [
    (points.x[at] * (1 - 2 * MARGIN) + MARGIN) * canvas().clientWidth * view.scale + view.left,
    (points.y[at] * (1 - 2 * MARGIN) + MARGIN) * canvas().clientHeight * view.scale + view.top,
  ];
  const label = (at) => points.labels[points.label[at]]?.name ?? "no label";
  const told = (at) => `${named(playlist(at))}, ${points.lengths[at]} tracks, ${label(at)}`;

  function draw() {
    const [pen, ratio] = [canvas().getContext("2d"), window.devicePixelRatio];
    const colours = getComputedStyle(document.documentElement);
    canvas().width = canvas().clientWidth * ratio;
    canvas().height = canvas().clientHeight * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const plain = colours.getPropertyValue("--point");
    for (const at of order) {
      if (!visible(at)) continue;
      pen.fillStyle = points.labels[points.label[at]]?.colour ?? plain;
      pen.beginPath();
      pen.arc(...place(at), RADIUS, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.strokeStyle = colours.getPropertyValue("--text");
    for (let at = 0; at < size; at++) {
      if (!visible(at) || !(marked.has(points.ids[at]) || at === chosen || at === hovered)) continue;
      pen.lineWidth = at === chosen ? 3 : 1.5;
      pen.beginPath();
      pen.arc(...place(at), at === chosen ? 2.5 * RADIUS : 1.8 * RADIUS, 0, 2 * Math.PI);
      pen.stroke();
    }
    canvas().style.touchAction = view.scale > 1 ? "none" : "pan-y"; // a phone scrolls past the whole map
  }

  /** Of the points that count, that of least cost. */
  function least(cost) {
    let [best, lowest] = [-1, Infinity];
    for (let at = 0; at < size; at++) {
      const value = visible(at) ? cost(...place(at), at) : Infinity;
      if (value < lowest) [best, lowest] = [at, value];
    }
    return best;
  }

  const under = (x, y) => least((across, down) => {
    const distance = Math.hypot(across - x, down - y);
    return distance < REACH ? distance : Infinity;
  });

  function hover(at, x, y) {
    const tip = byId("map-tip");
    tip.hidden = at < 0;
    if (at >= 0) {
      tip.textContent = told(at);
      tip.style.left = `${Math.max(0, Math.min(x + 12, canvas().clientWidth - tip.offsetWidth))}px`;
      tip.style.top = `${y + tip.offsetHeight + 16 > canvas().clientHeight ? y - tip.offsetHeight - 8 : y + 16}px`;
    }
    if (at !== hovered) {
      hovered = at;
      draw();
    }
  }

  function choose(at, more = "") {
    chosen = at;
    byId("map-status").textContent = at < 0 ? more : told(at) + more;
    const buttons = Object.entries(actions).map(([name, act]) => itemButton(name, playlist(at), () => act(playlist(at))));
    byId("map-actions").replaceChildren(...(at < 0 ? [] : buttons));
    if (at >= 0) bring(at);
    draw();
  }

  /** Put a corner of the map somewhere, as far as no edge of it comes into the view. */
  function put(left, top) {
    view.left = Math.min(0, Math.max(canvas().clientWidth * (1 - view.scale), left));
    view.top = Math.min(0, Math.max(canvas().clientHeight * (1 - view.scale), top));
  }

  /** Move the view so that a point is in it. */
  function bring(at) {
    const [x, y] = place(at);
    const [width, height] = [canvas().clientWidth, canvas().clientHeight];
    if (x < 0 || x > width) put(view.left + width / 2 - x, view.top);
    if (y < 0 || y > height) put(view.left, view.top + height / 2 - y);
  }

  function zoom(by, x = canvas().clientWidth / 2, y = canvas().clientHeight / 2) {
    const scale = Math.min(FARTHEST, Math.max(1, view.scale * by));
    const share = scale / view.scale;
    view.scale = scale;
    put(x - (x - view.left) * share, y - (y - view.top) * share);
    hover(-1);
    draw();
  }

  function drag(across, down) {
    put(view.left + across, view.top + down);
    hover(-1);
    draw();
  }

  /** The nearest point in a direction, from the chosen one or else the middle. */
  function step([right, down]) {
    const [x, y] = chosen >= 0 ? place(chosen) : [canvas().clientWidth / 2, canvas().clientHeight / 2];
    const next = least((across, below, at) => {
      const ahead = (across - x) * right + (below - y) * down;
      const aside = Math.abs((across - x) * down) + Math.abs((below - y) * right);
      return at !== chosen && ahead > 0 ? ahead + 2 * aside : Infinity;
    });
    if (next >= 0) choose(next);
  }

  function find(query) {
    const wanted = query.trim().toLowerCase();
    const has = (text) => text !== null && String(text).toLowerCase().includes(wanted);
    const found = points.ids.flatMap((id, at) => (visible(at) && (has(id) || has(points.titles[at])) ? [at] : []));
    if (!wanted || !found.length) return choose(-1, "no playlist is called so");
    const next = found.findIndex((at) => at > chosen);
    const number = next < 0 ? 0 : next;
    choose(found[number], `; ${number + 1} of ${found.length}`);
  }

  function legend() {
    const entries = [...points.labels.map((each, at) => [at, each.name, each.colour]), [NO_LABEL, "no label", "var(--point)"]];
    const used = new Set(points.label);
    const switches = entries.filter(([at]) => used.has(at)).map(([at, name, colour]) => {
      const dot = element("span", { className: "dot" });
      dot.style.background = colour;
      const button = element("button", { type: "button", "aria-pressed": "true" }, dot, name);
      button.addEventListener("click", () => {
        if (!off.delete(at)) off.add(at);
        button.setAttribute("aria-pressed", String(!off.has(at)));
        hover(-1);
        draw();
      });
      return element("li", {}, button);
    });
    byId("map-legend").replaceChildren(...switches);
  }

  shown = {
    draw, hover, choose, zoom, drag, step, find, under,
    enter: () => chosen >= 0 && actions.Similar(playlist(chosen)),
    mark(ids) {
      marked = new Set(ids);
      draw();
    },
  };
  legend();
  choose(-1);
  return shown;
}

const fingers = new Map(); // pointers that are down, and where
let moved = 0;

function down(event) {
  canvas().setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
  moved = 0;
}

function move(event) {
  const { offsetX: x, offsetY: y } = event;
  const before = fingers.get(event.pointerId);
  if (!before) return shown.hover(shown.under(x, y), x, y);
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
  moved += Math.hypot(x - before[0], y - before[1]);
  if (others.length) {
    const apart = (at) => Math.max(1, Math.hypot(at[0] - others[0][0], at[1] - others[0][1]));
    shown.zoom(apart([x, y]) / apart(before), (x + others[0][0]) / 2, (y + others[0][1]) / 2);
  } else {
    shown.drag(x - before[0], y - before[1]);
  }
  fingers.set(event.pointerId, [x, y]);
}

function up(event) {
  const alone = fingers.size === 1;
  if (fingers.delete(event.pointerId) && alone && moved < 4) shown.choose(shown.under(event.offsetX, event.offsetY));
}

function wheel(event) {
  if (document.activeElement !== canvas() && !event.ctrlKey) return; // the page scrolls
  event.preventDefault();
  shown.zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
}

function key(event) {
  const acts = {
    "+": () => shown.zoom(STEP),
    "=": () => shown.zoom(STEP),
    "-": () => shown.zoom(1 / STEP),
    0: () => shown.zoom(0),
    Enter: shown.enter,
    Escape: () => shown.choose(-1),
  };
  const act = event.key in KEYS ? () => shown.step(KEYS[event.key]) : acts[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
}

const heard = { pointerdown: down, pointermove: move, pointerup: up, keydown: key };
for (const [name, act] of Object.entries(heard)) canvas().addEventListener(name, act);
canvas().addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
canvas().addEventListener("pointerleave", () => shown.hover(-1));
canvas().addEventListener("wheel", wheel, { passive: false });
byId("map-in").addEventListener("click", () => shown.zoom(STEP));
byId("map-out").addEventListener("click", () => shown.zoom(1 / STEP));
byId("map-whole").addEventListener("click", () => shown.zoom(0));
byId("map-find").addEventListener("submit", (event) => {
  event.preventDefault();
  shown.find(byId("map-query").value);
});
window.addEventListener("resize", () => shown?.draw());
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown?.draw());

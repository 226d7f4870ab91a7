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

class PlaylistMap {
  constructor(points, actions) {
    this.points = points;
    this.actions = actions;
    // From below to above: those without a label first.
    this.order = [...points.ids.keys()].sort((a, b) => points.label[a] - points.label[b]);
    this.view = { scale: 1, left: 0, top: 0 };
    this.off = new Set(); // labels whose points are hidden
    this.marked = new Set(); // ids of points with rings
    this.chosen = -1;
    this.hovered = -1;
  }

  playlist(at) {
    return { id: this.points.ids[at], title: this.points.titles[at] };
  }

  visible(at) {
    return !this.off.has(this.points.label[at]);
  }

  /** Where a point stands on the canvas, in pixels. */
  place(at) {
    const { scale, left, top } = this.view;
    const inside = (part) => part * (1 - 2 * MARGIN) + MARGIN;
    return [
      inside(this.points.x[at]) * canvas().clientWidth * scale + left,
      inside(this.points.y[at]) * canvas().clientHeight * scale + top,
    ];
  }

  label(at) {
    return this.points.labels[this.points.label[at]];
  }

  told(at) {
    return `${named(this.playlist(at))}, ${this.points.lengths[at]} tracks, ${this.label(at)?.name ?? "no label"}`;
  }

  draw() {
    const [pen, ratio] = [canvas().getContext("2d"), window.devicePixelRatio];
    const colours = getComputedStyle(document.documentElement);
    canvas().width = canvas().clientWidth * ratio;
    canvas().height = canvas().clientHeight * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const plain = colours.getPropertyValue("--point");
    const shown = this.order.filter((at) => this.visible(at));
    for (const at of shown) {
      pen.fillStyle = this.label(at)?.colour ?? plain;
      pen.beginPath();
      pen.arc(...this.place(at), RADIUS, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.strokeStyle = colours.getPropertyValue("--text");
    for (const at of shown) {
      if (!this.marked.has(this.points.ids[at]) && at !== this.chosen && at !== this.hovered) continue;
      pen.lineWidth = at === this.chosen ? 3 : 1.5;
      pen.beginPath();
      pen.arc(...this.place(at), (at === this.chosen ? 2.5 : 1.8) * RADIUS, 0, 2 * Math.PI);
      pen.stroke();
    }
    canvas().style.touchAction = this.view.scale > 1 ? "none" : "pan-y"; // a phone scrolls past the whole map
  }

  /** Of the points that are shown, that of least cost; -1 where all cost endlessly much. */
  least(cost) {
    let [best, lowest] = [-1, Infinity];
    for (let at = 0; at < this.points.ids.length; at++) {
      const value = this.visible(at) ? cost(...this.place(at), at) : Infinity;
      if (value < lowest) [best, lowest] = [at, value];
    }
    return best;
  }

  /** The point that somebody who points there means, or -1. */
  under(x, y) {
    return this.least((across, down) => {
      const distance = Math.hypot(across - x, down - y);
      return distance < REACH ? distance : Infinity;
    });
  }

  hover(at, x, y) {
    const tip = byId("map-tip");
    tip.hidden = at < 0;
    if (at >= 0) {
      tip.textContent = this.told(at);
      tip.style.left = `${Math.max(0, Math.min(x + 12, canvas().clientWidth - tip.offsetWidth))}px`;
      tip.style.top = `${y + tip.offsetHeight + 16 > canvas().clientHeight ? y - tip.offsetHeight - 8 : y + 16}px`;
    }
    if (at === this.hovered) return;
    this.hovered = at;
    this.draw();
  }

  choose(at, more = "") {
    this.chosen = at;
    byId("map-status").textContent = at < 0 ? more : this.told(at) + more;
    const chosen = this.playlist(at);
    const buttons = Object.entries(this.actions).map(([name, act]) => itemButton(name, chosen, () => act(chosen)));
    byId("map-actions").replaceChildren(...(at < 0 ? [] : buttons));
    if (at >= 0) this.bring(at);
    this.draw();
  }

  enter() {
    if (this.chosen >= 0) this.actions.Similar(this.playlist(this.chosen));
  }

  mark(ids) {
    this.marked = new Set(ids);
    this.draw();
  }

  /** Put a corner of the map somewhere, as far as no edge of it comes into the view. */
  put(left, top) {
    this.view.left = Math.min(0, Math.max(canvas().clientWidth * (1 - this.view.scale), left));
    this.view.top = Math.min(0, Math.max(canvas().clientHeight * (1 - this.view.scale), top));
  }

  /** Move the view so that a point is in it. */
  bring(at) {
    const [x, y] = this.place(at);
    const [width, height] = [canvas().clientWidth, canvas().clientHeight];
    if (x < 0 || x > width) this.put(this.view.left + width / 2 - x, this.view.top);
    if (y < 0 || y > height) this.put(this.view.left, this.view.top + height / 2 - y);
  }

  zoom(by, x = canvas().clientWidth / 2, y = canvas().clientHeight / 2) {
    const scale = Math.min(FARTHEST, Math.max(1, this.view.scale * by));
    const share = scale / this.view.scale;
    this.view.scale = scale;
    this.put(x - (x - this.view.left) * share, y - (y - this.view.top) * share);
    this.hover(-1);
    this.draw();
  }

  drag(across, down) {
    this.put(this.view.left + across, this.view.top + down);
    this.hover(-1);
    this.draw();
  }

  /** To the nearest point in a direction, from the chosen one or else the middle. */
  step([right, down]) {
    const middle = [canvas().clientWidth / 2, canvas().clientHeight / 2];
    const [x, y] = this.chosen >= 0 ? this.place(this.chosen) : middle;
    const next = this.least((across, below, at) => {
      const ahead = (across - x) * right + (below - y) * down;
      const aside = Math.abs((across - x) * down) + Math.abs((below - y) * right);
      return at !== this.chosen && ahead > 0 ? ahead + 2 * aside : Infinity;
    });
    if (next >= 0) this.choose(next);
  }

  /** To the next point after the chosen one whose id or title contains the query. */
  find(query) {
    const wanted = query.trim().toLowerCase();
    const has = (text) => text !== null && String(text).toLowerCase().includes(wanted);
    const { ids, titles } = this.points;
    const found = [...ids.keys()].filter((at) => this.visible(at) && (has(ids[at]) || has(titles[at])));
    if (!wanted || !found.length) return this.choose(-1, "no playlist is called so");
    const number = Math.max(0, found.findIndex((at) => at > this.chosen));
    this.choose(found[number], `; ${number + 1} of ${found.length}`);
  }

  /** A button for each label that shows or hides its points. */
  legend() {
    const used = new Set(this.points.label);
    const labels = [...this.points.labels.entries(), [NO_LABEL, { name: "no label", colour: "var(--point)" }]];
    const rows = labels.filter(([at]) => used.has(at)).map(([at, { name, colour }]) => {
      const dot = element("span", { className: "dot" });
      dot.style.background = colour;
      const button = element("button", { type: "button", "aria-pressed": "true" }, dot, name);
      button.addEventListener("click", () => {
        if (!this.off.delete(at)) this.off.add(at);
        button.setAttribute("aria-pressed", String(!this.off.has(at)));
        this.hover(-1);
        this.draw();
      });
      return element("li", {}, button);
    });
    byId("map-legend").replaceChildren(...rows);
  }
}

/** Show points as `v1/playlists/map` gives them; `actions` can be done with a playlist. */
export function playlistMap(points, actions) {
  shown = new PlaylistMap(points, actions);
  shown.legend();
  shown.choose(-1);
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
    Enter: () => shown.enter(),
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

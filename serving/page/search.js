// The search box: a combobox as the ARIA Authoring Practices describe it.

import * as api from "./api.js";
import { byId, element, titleOf } from "./dom.js";

const SHOWN = 8;
const PAUSE = 120; // milliseconds without a key before it asks

export function searchBox(chosen, failed) {
  const box = byId("search");
  const list = byId("found");
  const find = api.latest((query, signal) => api.items(query, SHOWN, signal));
  let found = [];
  let marked = -1;
  let timer = 0;

  function mark(place) {
    marked = place;
    [...list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === place)));
    const option = list.children[place];
    if (option) {
      box.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else {
      box.removeAttribute("aria-activedescendant");
    }
  }

  function close() {
    clearTimeout(timer);
    found = [];
    open([]);
  }

  function show(items) {
    found = items;
    const options = items.map((item, place) => {
      const option = element("li", { id: `found-${place}`, role: "option" }, titleOf(item));
      option.addEventListener("pointerdown", (event) => {
        event.preventDefault(); // the box keeps the keyboard
        choose(place);
      });
      return option;
    });
    if (!items.length) {
      options.push(element("li", { className: "quiet", role: "option", "aria-disabled": "true" }, "nothing found"));
    }
    open(options);
  }

  function open(options) {
    list.replaceChildren(...options);
    list.hidden = !options.length;
    box.setAttribute("aria-expanded", String(!list.hidden));
    mark(-1);
  }

  function choose(place) {
    const item = found[place];
    if (!item) return;
    box.value = "";
    close();
    chosen(item);
  }

  async function ask() {
    const query = box.value.trim();
    if (!query) return close();
    try {
      const items = await find(query);
      if (items && box.value.trim() === query) show(items);
    } catch (error) {
      failed(error);
    }
  }

  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE);
  });
  box.addEventListener("blur", close);
  box.addEventListener("keydown", async (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps && found.length) {
      event.preventDefault();
      const start = marked < 0 && steps[event.key] < 0 ? 0 : marked;
      mark((start + steps[event.key] + found.length) % found.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!found.length) await ask();
      choose(Math.max(marked, 0));
    } else if (event.key === "Escape") {
      if (list.hidden) box.value = "";
      close();
    }
  });
}

// Elements, made without HTML in texts: a title is never markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties (attributes, where it has no such property) and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export const named = (item) => item.title ?? String(item.id);

/** Title and, where it is something else, the id. */
export function titleOf(item) {
  const title = element("span", { className: "title" }, named(item));
  if (item.title !== null) title.append(" ", element("span", { className: "quiet" }, String(item.id)));
  return title;
}

/** A button of one item in a list: "Add" for the eye, "Add TITLE" for who listens. */
export function itemButton(label, item, action) {
  return element("button", { type: "button", onclick: action, "aria-label": `${label} ${named(item)}` }, label);
}

/** Fill a list anew; the keyboard stays at the same place of it. */
export function fill(list, rows) {
  const places = [...list.querySelectorAll("button")];
  const place = places.indexOf(document.activeElement);
  list.replaceChildren(...rows);
  if (place < 0) return true;
  const buttons = list.querySelectorAll("button");
  buttons[Math.min(place, buttons.length - 1)]?.focus();
  return buttons.length > 0;
}

/** Rows of scored items: a bar as long as the score is high among them, and what can be done with each. */
export function scoredRows(items, actions) {
  const scores = items.map((item) => item.score);
  const [least, greatest] = [Math.min(...scores), Math.max(...scores)];
  return items.map((item) => {
    const share = greatest > least ? (item.score - least) / (greatest - least) : 1;
    const bar = element("div", { className: "bar", title: `score ${item.score.toFixed(3)}`, "aria-hidden": "true" });
    bar.style.width = `${5 + 95 * share}%`;
    const buttons = Object.entries(actions).map(([label, act]) => itemButton(label, item, () => act(item)));
    return element("li", {}, titleOf(item), element("span", { className: "actions" }, ...buttons), bar);
  });
}

/** Terms and what is said of them; those of which nothing is known are left out. */
export function describe(list, facts) {
  const known = Object.entries(facts).filter(([, fact]) => fact !== null && fact !== undefined);
  list.replaceChildren(
    ...known.flatMap(([term, fact]) => [element("dt", {}, term), element("dd", {}, String(fact))]),
  );
}

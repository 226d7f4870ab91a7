// The form of filters, made for the attributes that this model's items have, and what it asks for.

import { byId, element } from "./dom.js";

/** Fields for each attribute of the model card. */
export function buildFilters(card) {
  const place = byId("attributes");
  place.replaceChildren(...card.attributes.map(attributeFields).filter(Boolean));
  const spread = byId("filter-form").elements.spread;
  const options = card.attributes.map((each) => element("option", { value: each.name }, each.name));
  spread.replaceChildren(spread.options[0], ...options);
  byId("spread").hidden = !options.length;
  byId("region").hidden = !card.regions;
}

function attributeFields(attribute) {
  const fields = element("fieldset", {}, element("legend", {}, attribute.name));
  if (attribute.values === null) {
    const bound = (label, operator, value) =>
      element(
        "label",
        {},
        `${label} `,
        element("input", { type: "number", step: "any", placeholder: value, "data-of": attribute.name, "data-operator": operator }),
      );
    fields.append(
      element("div", { className: "pair" }, bound("from", ">=", attribute.least), bound("to", "<=", attribute.greatest)),
    );
  } else {
    if (!attribute.values.length) return null;
    const choices = attribute.values.map((value) => {
      const box = element("input", { type: "checkbox", "data-of": attribute.name, "data-value": JSON.stringify(value) });
      return element("label", { className: "check" }, box, String(value));
    });
    fields.append(element("div", { className: "choices" }, ...choices));
    if (attribute.more) fields.append(element("p", { className: "quiet" }, `and ${attribute.more} rarer ones`));
  }
  return fields;
}

/** The fields of a request that the form stands for. */
export function filters() {
  const form = byId("filter-form").elements;
  const asked = { k: Number(form.k.value), exclude_seen: form.exclude_seen.checked };
  if (form.min_score.value) asked.min_score = Number(form.min_score.value);
  if (form.region.value) asked.region = form.region.value;
  if (form.spread.value) asked.max_per = { [form.spread.value]: Number(form.most.value) };
  const where = {};
  for (const field of byId("attributes").querySelectorAll("input")) {
    const { of: name, operator, value } = field.dataset;
    if (operator && field.value) where[name] = { ...where[name], [operator]: Number(field.value) };
    if (value && field.checked) where[name] = [...(where[name] ?? []), JSON.parse(value)];
  }
  return Object.keys(where).length ? { ...asked, where } : asked;
}

/** Calls when the form changes to something that can be asked. */
export function onFilters(changed) {
  const form = byId("filter-form");
  let timer = 0;
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(() => form.checkValidity() && changed(), 150);
  };
  form.addEventListener("input", soon);
  form.addEventListener("reset", soon);
  form.addEventListener("submit", (event) => event.preventDefault());
}

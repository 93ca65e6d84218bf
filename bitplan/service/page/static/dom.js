// Elements made of text, never of markup: what a model is called cannot become a script.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (`class`, `onclick`, `data-x`, ...) and children; null children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Put children in place of what is there. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

/** Show a message in its place, or nothing. */
export function tell(element, message) {
  element.textContent = message ?? "";
  element.hidden = !message;
}

/** Terms and what they say, as the pairs of a <dl>: [term, value, small print, class]. */
export const figures = (entries) =>
  entries.map(([term, value, small, style]) =>
    h("div", { class: style }, h("dt", {}, term), h("dd", {}, value, small ? h("small", {}, small) : null)),
  );

/** A table of head cells [text, is a number, class of the column] and rows of cells, the first of each its header. */
export function table(head, rows, { caption, style = () => null } = {}) {
  const classes = head.map(([, isNumber, style]) => [isNumber && "number", style].filter(Boolean).join(" ") || null);
  const columns = head.map(([text], index) => h("th", { scope: "col", class: classes[index] }, text));
  const lines = rows.map((cells, row) =>
    h(
      "tr",
      { class: style(row) },
      cells.map((cell, index) =>
        index ? h("td", { class: classes[index] }, cell) : h("th", { scope: "row" }, cell),
      ),
    ),
  );
  return h(
    "table",
    {},
    caption ? h("caption", {}, caption) : null,
    h("thead", {}, h("tr", {}, columns)),
    h("tbody", {}, lines),
  );
}

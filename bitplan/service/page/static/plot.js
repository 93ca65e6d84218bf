// Draws with plotly, which comes when the first figure does, in the page's own colours.

let loading;

/** plotly, once. Its script is of this server, so nothing else needs to be reached. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("plotly.min.js", import.meta.url).href;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The plots could not be loaded. The table has the same numbers."));
    document.head.append(script);
  });
  return loading;
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const dark = matchMedia("(prefers-color-scheme: dark)");
const small = matchMedia("(max-width: 48rem)");

export const isSmall = () => small.matches;

/** A figure that `draw({color})` gives as {traces, layout}; drawn again as the colours change. */
export class Plot {
  constructor(element, { label, clicked }) {
    Object.assign(this, { element, label, clicked });
    for (const query of [dark, small]) query.addEventListener("change", () => this.draw && this.show(this.draw));
  }

  async show(draw) {
    this.draw = draw;
    const library = await plotly();
    const { traces, layout } = draw({ color });
    await library.react(this.element, traces, { ...frame(), ...layout, xaxis: { ...axis(), ...layout.xaxis }, yaxis: { ...axis(), ...layout.yaxis } }, OPTIONS);
    this.element.setAttribute("aria-busy", "false");
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", this.label);
    if (this.clicked && !this.listens) {
      this.listens = true;
      this.element.on("plotly_click", ({ points }) => this.clicked(points[0]));
    }
  }

  /** Change the figure's shapes, as a marker that follows the slider, and one trace's points. */
  async move(layout, trace, index) {
    const library = await plotly();
    if (this.element.data) await library.update(this.element, trace, layout, [index]);
  }
}

const OPTIONS = { displayModeBar: false, responsive: true, doubleClick: false, showTips: false, scrollZoom: false };

function frame() {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: color("muted") },
    hoverlabel: { bgcolor: color("raised"), bordercolor: color("edge"), font: { color: color("ink"), size: 12.5 } },
    showlegend: false,
    dragmode: false,
    margin: margins(),
  };
}

/** Room around the plot, in pixels; the slider below keeps to the same. */
export const margins = () => (isSmall() ? { l: 44, r: 10, t: 26, b: 40 } : { l: 48, r: 16, t: 28, b: 42 });

function axis() {
  return {
    gridcolor: color("line"),
    linecolor: color("edge"),
    zeroline: false,
    fixedrange: true,
    ticks: "outside",
    ticklen: 4,
    tickcolor: color("edge"),
  };
}

/** A value as a tick: 0.5, 0.01, then powers. */
export function tickText(value) {
  if (value >= 0.01) return String(value);
  const [digits, power] = value.toExponential().split("e-");
  const raised = [...power].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  return `${digits === "1" ? "" : `${digits}·`}10⁻${raised}`;
}

/** What the vertical axis shows, above it and not beside it: it is read without turning one's head. */
export const axisName = (text) => ({
  text, xref: "paper", yref: "paper", x: 0, y: 1, xanchor: "left", yanchor: "bottom", xshift: 1 - margins().l, yshift: 6, showarrow: false,
});

/** Ticks of a logarithmic axis that people would write: 0.5, 1, 2, 5, 10, ... */
export function ticks(low, high, most) {
  for (const steps of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const one of steps) {
        const value = Number((one * 10 ** power).toPrecision(3));
        if (value >= low && value <= high) found.push(value);
      }
    if (found.length <= most) return found;
  }
  return [];
}

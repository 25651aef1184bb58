/* Figures that move. A page holds a still picture, <figure class="moving-NAME">; this script puts a moving one in its
   place. NAME.js draws it and NAME.data.js holds what the library computed. No server, no download, no framework. */
"use strict";
const moving = (() => {
  const home = document.currentScript.src.replace(/moving\.js.*$/, "moving/");
  const drawings = {}, numbers = {}, waiting = {};

  /* ------------------------------------------------------------------------------------------------ loading */
  const load = (name) => new Promise((done) => {
    const script = document.createElement("script");
    script.src = home + name;
    script.onload = done;
    document.head.append(script);
  });
  async function start(figure, name) {
    await Promise.all([load(`${name}.js`), load(`${name}.data.js`)]);
    const stage = make("div", { class: "moving-stage", role: "group" });
    const caption = figure.querySelector(".caption-text, figcaption");
    stage.setAttribute("aria-label", `Moving figure. ${caption ? caption.textContent.trim().slice(0, 120) : name}`);
    figure.prepend(stage);
    for (const link of figure.querySelectorAll(":scope > a")) link.tabIndex = -1;
    figure.classList.add("moving-live");
    const redraw = drawings[name](numbers[name], kit(stage), figure);
    let width = stage.clientWidth;
    new ResizeObserver(() => {
      if (stage.clientWidth !== width) { width = stage.clientWidth; redraw(); }
    }).observe(stage);
    redraw();
  }
  document.addEventListener("DOMContentLoaded", () => {
    for (const figure of document.querySelectorAll("figure[class*='moving-']")) {
      start(figure, figure.className.match(/moving-(\w+)/)[1]);
    }
  });

  /* ------------------------------------------------------------------------------------------------ controls */
  function make(tag, attributes = {}, parent = null, text = null) {
    const node = tag.startsWith("svg:")
      ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }
  /* What a drawing has to work with: rows of controls, a sentence with the numbers, a picture to draw into. */
  function kit(stage) {
    const row = make("div", { class: "moving-controls" }, stage);
    const listeners = [];
    const changed = () => listeners.forEach((f) => f());
    const said = make("p", { class: "moving-said", "aria-live": "polite" }, stage);
    return {
      stage, make, plot, number,
      onchange: (f) => listeners.push(f),
      say: (text) => { said.textContent = text; },
      /* A slider over a list of values; its text is the value, or what `shown` makes of it. */
      slider(label, values, first, shown = String) {
        const box = make("label", {}, row);
        const head = make("span", {}, box);
        const at = values.findIndex((v) => String(v) === String(first));
        const input = make("input", { type: "range", min: 0, max: values.length - 1, step: 1, value: at }, box);
        const tell = () => {
          const text = shown(values[input.value]);
          head.textContent = `${label}: ${text}`;
          input.setAttribute("aria-valuetext", text);
        };
        input.addEventListener("input", () => { tell(); changed(); });
        tell();
        return { get value() { return values[input.value]; }, set index(i) { input.value = i; tell(); changed(); },
          get index() { return Number(input.value); }, count: values.length };
      },
      choice(label, options, first) {
        const box = make("label", {}, row);
        make("span", {}, box, label);
        const input = make("select", {}, box);
        for (const [value, text] of Object.entries(options)) {
          const option = make("option", { value }, input, text);
          option.selected = value === String(first);
        }
        input.addEventListener("change", changed);
        return { get value() { return input.value; } };
      },
      button(label, act) {
        const input = make("button", { type: "button" }, row, label);
        input.addEventListener("click", () => { act(input); changed(); });
        return input;
      },
    };
  }

  /* ------------------------------------------------------------------------------------------------ drawing */
  const number = (x) => {
    if (x === null || x === undefined) return "not finite";
    const size = Math.abs(x);
    return size !== 0 && (size < 1e-3 || size >= 1e4) ? x.toExponential(2) : String(Number(x.toPrecision(3)));
  };
  const ink = (colour) => (colour === "#4D4D4D" ? "currentColor" : colour); /* the dark grey, readable on a dark page */

  /* An empty plot in a stage: axes, ticks and labels, with `line`, `dots`, `text` in its coordinates. `old` is replaced. */
  function plot(stage, old, { x, y, height = 0.62, share = 1, title = "" }) {
    const width = Math.max(260, Math.min(760, stage.clientWidth * share)), tall = Math.max(220, width * height);
    const box = { left: 52, right: width - 12, top: title ? 24 : 10, bottom: tall - 40 };
    const svg = make("svg:svg", { viewBox: `0 0 ${width} ${tall}`, "aria-hidden": "true" });
    svg.style.maxWidth = `${width}px`;
    if (old) old.replaceWith(svg); else stage.append(svg);
    const scale = (axis, low, high) => {
      const f = axis.log ? Math.log10 : (v) => v, from = f(axis.from), to = f(axis.to);
      return (v) => low + (f(Math.max(v, axis.log ? 1e-300 : -Infinity)) - from) / (to - from) * (high - low);
    };
    const X = scale(x, box.left, box.right), Y = scale(y, box.bottom, box.top);
    const id = `moving-clip-${Math.random().toString(36).slice(2)}`;
    make("svg:rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top },
      make("svg:clipPath", { id }, svg));
    const show = (axis) => (v) => (axis.log ? v.toExponential(0).replace("e+", "e") : String(Number(v.toPrecision(6))));
    for (const v of x.ticks) {
      make("svg:line", { x1: X(v), x2: X(v), y1: box.top, y2: box.bottom, class: "line" }, svg);
      make("svg:text", { x: X(v), y: box.bottom + 15, "text-anchor": "middle" }, svg, (x.show || show(x))(v));
    }
    for (const v of y.ticks) {
      make("svg:line", { x1: box.left, x2: box.right, y1: Y(v), y2: Y(v), class: "line" }, svg);
      make("svg:text", { x: box.left - 5, y: Y(v) + 4, "text-anchor": "end" }, svg, (y.show || show(y))(v));
    }
    make("svg:text", { x: (box.left + box.right) / 2, y: tall - 8, "text-anchor": "middle" }, svg, x.label);
    const middle = (box.top + box.bottom) / 2;
    make("svg:text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, svg, y.label);
    if (title) make("svg:text", { x: (box.left + box.right) / 2, y: 15, "text-anchor": "middle" }, svg, title);
    const inside = make("svg:g", { "clip-path": `url(#${id})` }, svg);
    return {
      svg, X, Y,
      line(points, colour, more = {}) {
        const d = points.filter((p) => p[1] !== null)
          .map((p, i) => `${i ? "L" : "M"}${X(p[0]).toFixed(1)} ${Y(p[1]).toFixed(1)}`).join("");
        return make("svg:path", { d, fill: "none", stroke: ink(colour), "stroke-width": 1.8, ...more }, inside);
      },
      dots(points, colour, r = 3.5) {
        for (const p of points) {
          if (p[1] !== null) make("svg:circle", { cx: X(p[0]), cy: Y(p[1]), r, fill: ink(colour) }, inside);
        }
      },
      disc(centre, radius) {
        make("svg:ellipse", { cx: X(centre[0]), cy: Y(centre[1]), rx: Math.abs(X(radius) - X(0)),
          ry: Math.abs(Y(radius) - Y(0)), fill: "currentColor", opacity: 0.12 }, inside);
      },
      band(from, to) {
        make("svg:rect", { x: Math.min(X(from), X(to)), width: Math.abs(X(to) - X(from)), y: box.top,
          height: box.bottom - box.top, fill: "currentColor", opacity: 0.08 }, inside);
      },
      text(at, words, more = {}) {
        return make("svg:text", { x: X(at[0]), y: Y(at[1]), ...more }, inside, words);
      },
    };
  }
  return {
    figure: (name, drawing) => { drawings[name] = drawing; },
    data: (name, value) => { numbers[name] = value; },
  };
})();

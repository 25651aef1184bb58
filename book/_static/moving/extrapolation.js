/* The polynomial through the last one to four noise predictions, and what the step that integrates it costs. */
moving.figure("extrapolation", (data, kit) => {
  const colours = { 1: "#0072B2", 2: "#D55E00", 3: "#009E73", 4: "#CC79A7" };
  const order = kit.slider("order", [1, 2, 3, 4], 2);
  const steps = kit.slider("steps of the whole run", Object.keys(data.steps), "10");
  let plot = null;
  const draw = () => {
    const step = data.steps[steps.value], q = order.value, found = step.orders[q];
    const low = data.t[step.end], high = data.t[step.spots[3]], margin = 0.06 * (high - low);
    const shown = data.eps.slice(step.spots[3], step.end + 1);
    const every = shown.concat(...Object.values(step.orders).map((o) => o.curve));
    const bottom = Math.min(...shown), top = Math.max(...shown), room = Math.max(0.25 * (top - bottom), 0.02);
    const ticks = (from, to, n) => Array.from({ length: n }, (_, i) => Number((from + (to - from) * i / (n - 1)).toPrecision(2)));
    plot = kit.plot(kit.stage, plot && plot.svg, {
      x: { from: low - margin, to: high + margin, ticks: ticks(low, high, 4), label: "time t (sampling runs to the left)" },
      y: { from: Math.max(bottom - room, Math.min(...every) - 0.02), to: Math.min(top + room, Math.max(...every) + 0.02),
        ticks: ticks(bottom, top, 3), label: "noise ε" },
    });
    plot.band(low, data.t[data.place]);
    const curve = data.t.map((t, i) => [t, data.eps[i]]).slice(step.spots[3] - 3, step.end + 4);
    plot.line(curve, "currentColor", { "stroke-width": 6, opacity: 0.25 });
    for (const other of [1, 2, 3, 4]) {
      const points = step.t.map((t, i) => [t, step.orders[other].curve[i]]);
      plot.line(points, colours[other], other === q ? { "stroke-width": 3 } : { opacity: 0.35, "stroke-dasharray": "4 3" });
    }
    plot.dots(step.spots.slice(q).map((i) => [data.t[i], data.eps[i]]), "#999999", 3);
    plot.dots(step.spots.slice(0, q).map((i) => [data.t[i], data.eps[i]]), colours[q], 5);
    kit.say(`Order ${q}, ${steps.value} steps: the polynomial of degree ${q - 1} through the last ${q} ` +
      `${q === 1 ? "prediction" : "predictions"} makes an error of ${kit.number(found.error)} in this step.`);
  };
  kit.onchange(draw);
  return draw;
});

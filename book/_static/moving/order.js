/* The order plot, point by point: halve the step, look at the slope, and decide when to believe it. */
moving.figure("order", (data, kit) => {
  const names = Object.keys(data.cases);
  const method = kit.choice("method", Object.fromEntries(names.map((n) => [n, n])), "Heun");
  const count = kit.slider("points", data.cases[names[0]].steps.map((_, i) => i + 1), 1);
  kit.button("halve the step", () => { count.index = Math.min(count.index + 1, count.count - 1); });
  let plot = null;
  const draw = () => {
    const now = data.cases[method.value], k = count.value;
    plot = kit.plot(kit.stage, plot && plot.svg, {
      x: { from: 4, to: 8000, log: true, ticks: [10, 100, 1000], label: "network evaluations", show: String },
      y: { from: 1e-12, to: 20, log: true, ticks: [1e-12, 1e-9, 1e-6, 1e-3, 1], label: "error" },
    });
    for (const name of names) {
      const other = data.cases[name];
      if (name !== method.value) plot.line(other.nfe.slice(0, k).map((n, i) => [n, other.errors[i]]), other.colour, { opacity: 0.2 });
    }
    const points = now.nfe.slice(0, k).map((n, i) => [n, now.errors[i]]);
    if (k > 1) {
      const [n, e] = points[k - 1], far = n / 40;
      plot.line([[n, e], [far, e * (n / far) ** now.claim]], "currentColor", { "stroke-dasharray": "5 4", "stroke-width": 1 });
    }
    plot.line(points, now.colour);
    plot.dots(points, now.colour, 4);
    const last = points[k - 1];
    let text = `${method.value}, ${now.steps[k - 1]} steps, ${last[0]} evaluations: error ${kit.number(last[1])}. `;
    if (k > 1) text += `Slope from the point before: ${now.slopes[k - 2].toFixed(2)}; claimed: ${now.claim} (dashed). `;
    if (k > 2) {
      const band = [now.slopes[k - 3], now.slopes[k - 2]].every((s) => Math.abs(s - now.claim) < 0.3);
      text += last[1] < 1e-11 ? "Below 1e-11 rounding is felt." :
        band ? "Two slopes in a row agree with the claim." : "Two slopes in a row do not agree with the claim yet.";
    }
    kit.say(text);
  };
  kit.onchange(draw);
  return draw;
});

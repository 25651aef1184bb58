/* Paths of six particles under a solver of the reader's choice, and the exact paths beneath them. */
moving.figure("trajectories", (data, kit) => {
  const solver = kit.choice("solver", Object.fromEntries(Object.keys(data.solvers).map((s) => [s, s])), "ddim");
  const grid = kit.choice("grid", data.grids, "log_snr");
  const steps = kit.slider("steps", data.steps, 8);
  let plot = null;
  const draw = () => {
    const run = data.runs[`${solver.value} ${grid.value} ${steps.value}`];
    plot = kit.plot(kit.stage, plot && plot.svg, {
      x: { from: -3, to: 3, ticks: [-2, 0, 2], label: "x₁" }, y: { from: -2.8, to: 2.8, ticks: [-2, 0, 2], label: "x₂" },
      height: 0.72,
    });
    for (const mean of data.blobs.means) plot.disc(mean, 2 * data.blobs.std);
    for (const path of data.exact) plot.line(path, "currentColor", { "stroke-width": 6, opacity: 0.25 });
    for (const path of run.path) {
      plot.line(path, data.solvers[solver.value], { "stroke-width": 1.5 });
      plot.dots(path, data.solvers[solver.value], 3);
    }
    kit.say(`${solver.value}, ${steps.value} steps, ${data.grids[grid.value]}: ${run.nfe} evaluations, ` +
      `root mean square error at the end ${kit.number(run.error)}.`);
  };
  kit.onchange(draw);
  return draw;
});

/* Reverse paths from the same starts with the same noise, for a lambda of the reader's choice. */
moving.figure("family", (data, kit) => {
  const values = Object.keys(data.paths);
  const lambda = kit.slider("λ", values, "0.0");
  const colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  let plot = null;
  const draw = () => {
    const paths = data.paths[lambda.value];
    plot = kit.plot(kit.stage, plot && plot.svg, {
      x: { from: data.log_snr[0], to: data.log_snr[data.log_snr.length - 1] + 0.3, ticks: [-8, -4, 0, 4, 8], label: "log-SNR (sampling runs to the right)" },
      y: { from: -3.4, to: 3.4, ticks: [-3, -1.2, 0, 0.8, 3], label: "x" },
    });
    paths.forEach((path, i) => {
      plot.line(path.map((x, j) => [data.log_snr[j], x]), colours[i % 6], { "stroke-width": 1.4 });
      plot.dots([[data.log_snr[path.length - 1], path[path.length - 1]]], colours[i % 6], 4);
    });
    const left = paths.filter((p) => p[p.length - 1] < -0.2).length;
    kit.say(`λ = ${lambda.value}: ${left} of ${paths.length} paths end in the left mode (weight 0.3). ` +
      `Mean length of a path: ${kit.number(data.length[lambda.value])}.`);
  };
  kit.onchange(draw);
  return draw;
});

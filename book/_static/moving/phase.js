/* Phase space: the momentum moves the position, the score moves the momentum. Both pictures show the same time. */
moving.figure("phase", (data, kit) => {
  const space = kit.choice("process", Object.fromEntries(Object.keys(data.spaces).map((s) => [s, s])), "CLD");
  const time = kit.slider("time", data.spaces.CLD.t.map((_, i) => i), 0, (i) => data.spaces[space.value].t[i].toFixed(3));
  let running = null;
  const play = kit.button("play", (button) => {
    if (running) { clearInterval(running); running = null; button.textContent = "play"; return; }
    if (time.index === time.count - 1) time.index = 0;
    button.textContent = "stop";
    running = setInterval(() => {
      time.index = time.index + 1;
      if (time.index === time.count - 1) { clearInterval(running); running = null; button.textContent = "play"; }
    }, 120);
  });
  const colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  let left = null, right = null;
  const draw = () => {
    const s = data.spaces[space.value], now = time.index, narrow = kit.stage.clientWidth < 560;
    const reach = 1.05 * Math.max(...s.m.flat().map(Math.abs));
    const shape = { share: narrow ? 1 : 0.9, height: narrow ? 0.7 : 0.42 };
    left = kit.plot(kit.stage, left && left.svg, {
      x: { from: -3, to: 3, ticks: [-2, -1, 0, 1, 2], label: "position x" },
      y: { from: -reach, to: reach, ticks: [-1, 0, 1].map((v) => Number((v * reach * 0.8).toPrecision(1))), label: "momentum m" }, ...shape,
    });
    right = kit.plot(kit.stage, right && right.svg, {
      x: { from: 1, to: 0, ticks: [1, 0.75, 0.5, 0.25, 0], label: "time t (sampling runs to the right)" },
      y: { from: -3, to: 3, ticks: [-2, 0, 2], label: "position x" }, ...shape,
    });
    s.x.forEach((x, i) => {
      const m = s.m[i], colour = colours[i % 6];
      left.line(x.slice(0, now + 1).map((v, j) => [v, m[j]]), colour, { opacity: 0.35 });
      left.dots([[x[now], m[now]]], colour, 5);
      right.line(x.slice(0, now + 1).map((v, j) => [s.t[j], v]), colour, { opacity: 0.6 });
      right.dots([[s.t[now], x[now]]], colour, 4);
    });
    kit.say(`${space.value}, t = ${s.t[now].toFixed(3)}: the first particle has position ${kit.number(s.x[0][now])} ` +
      `and momentum ${kit.number(s.m[0][now])}.`);
  };
  kit.onchange(draw);
  return draw;
});

/* The gallery, one solver at a time: the same two starts, more and more evaluations, the reference beside them. */
moving.figure("gallery", (data, kit, figure) => {
  const names = Object.keys(data.rows);
  const solver = kit.choice("solver", Object.fromEntries(names.map((n) => [n, n])), "ddim");
  const budget = kit.slider("evaluations at most", data.budgets, 5);
  const place = kit.make("div", { class: "moving-pictures" }, kit.stage);
  const sheet = figure.querySelector("img").src;
  const draw = () => {
    const column = budget.index, run = data.rows[solver.value][column], last = data.budgets.length - 1;
    const side = Math.min(150, (kit.stage.clientWidth - 24) / 2 - 8), scale = side / data.size;
    const pair = (row, where, title) => {
      const box = kit.make("div", {}, place);
      for (const k of [0, 1]) {
        const cut = kit.make("span", { "aria-hidden": "true" }, box);
        Object.assign(cut.style, { width: `${side}px`, height: `${side}px`, backgroundImage: `url("${sheet}")`,
          backgroundSize: `${data.width * scale}px ${data.height * scale}px`,
          backgroundPosition: `${-data.left[2 * where + k] * scale}px ${-data.top[row] * scale}px` });
      }
      kit.make("div", {}, box, title);
    };
    place.replaceChildren();
    pair(solver.value, column, solver.value);
    pair("reference", last, "reference");
    kit.say(`${solver.value}, ${run.nfe} evaluations: ` + (run.lost ? "the run is lost." :
      `distance from the network's own reference ${kit.number(run.error)}.`));
  };
  kit.onchange(draw);
  return draw;
});

"use strict";
for (const section of document.querySelectorAll(".attention")) {
  const data = JSON.parse(section.querySelector("script").textContent);
  const panel = section.querySelector(".panel");
  const heads = [...section.querySelectorAll("canvas")];
  let kept = null;

  const weights = (canvas) => data.weights[canvas.dataset.layer][canvas.dataset.head];

  // blue reads with the value's own sign, red against it; of weights without bound the head's largest is full
  const largest = (rows) => Math.max(...rows.flat().map(Math.abs)) || 1;
  const colour = (weight, full) => `rgba(${weight < 0 ? "220, 38, 38" : "37, 99, 235"}, ${Math.abs(weight) / full})`;
  const words = (weight) => data.signed ? weight.toPrecision(3) : `${(100 * weight).toFixed(1)}%`;

  function draw(canvas) {
    const rows = weights(canvas);
    const full = data.signed ? largest(rows) : 1;
    const side = canvas.width / rows.length;
    const pen = canvas.getContext("2d");
    rows.forEach((row, query) => row.forEach((weight, key) => {
      pen.fillStyle = colour(weight, full);
      pen.fillRect(key * side, query * side, Math.ceil(side), Math.ceil(side));
    }));
  }

  function cell(kind, text) {
    const made = document.createElement(kind);
    made.textContent = text;
    return made;
  }

  function show(canvas) {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    head.append(cell("th", ""), ...data.tokens.map((token) => cell("th", token)));
    const body = table.createTBody();
    const full = data.signed ? largest(weights(canvas)) : 1;
    weights(canvas).forEach((row, query) => {
      const line = body.insertRow();
      line.append(cell("th", data.tokens[query]));
      row.forEach((weight, key) => {
        const made = cell("td", key <= query || weight !== 0 ? weight.toFixed(2) : "");
        made.style.backgroundColor = colour(weight, full);
        made.title = `${data.tokens[query]} → ${data.tokens[key]}: ${words(weight)}`;
        line.append(made);
      });
    });
    const title = `layer ${data.layers[canvas.dataset.layer]}, head ${data.heads[canvas.dataset.head]}`;
    panel.replaceChildren(cell("h3", title), table);
  }

  function keep(canvas) {
    heads.forEach((other) => other.classList.toggle("kept", other === canvas));
    kept = canvas;
    show(canvas);
  }

  for (const canvas of heads) {
    draw(canvas);
    canvas.addEventListener("mouseenter", () => show(canvas));
    canvas.addEventListener("focus", () => show(canvas));
    canvas.addEventListener("mouseleave", () => show(kept));
    canvas.addEventListener("click", () => keep(canvas));
    canvas.addEventListener("keydown", (event) => { if (event.key === "Enter") keep(canvas); });
  }
  if (heads.length) keep(heads[0]);
}

"use strict";
const { nodes, edges, tokens, layers, share, paths } = JSON.parse(document.querySelector("#data").textContent);
const plane = document.querySelector("#plane"), panel = document.querySelector("#panel");
const rank = document.querySelector("#rank"), count = document.querySelector("#count"), errors = document.querySelector("#errors");
const SVG = "http://www.w3.org/2000/svg";
// everything goes in as text, never as markup
const make = (space, tag, attributes, ...children) => {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const draw = (tag, attributes, ...children) => make(SVG, tag, attributes, ...children);
const html = (tag, attributes, ...children) => make(null, tag, attributes, ...children);
const ins = nodes.map(() => []), outs = nodes.map(() => []);
edges.forEach(([source, target], at) => { outs[source].push(at); ins[target].push(at); });

// rows: tokens, layers, logits; columns: positions
const STEP = 21, LEFT = 64, PAD = 15;
const rowOf = (node) => (node.kind === "token" ? 0 : node.kind === "logit" ? layers + 1 : node.layer + 1);
const cells = new Map();
nodes.forEach((node, at) => {
  const key = rowOf(node) + " " + node.pos;
  if (!cells.has(key)) cells.set(key, []);
  cells.get(key).push(at);
});
const importance = (at) => (nodes[at].rank === undefined ? 0 : nodes[at].rank) + (nodes[at].kind === "error" ? 10 : 0);
for (const held of cells.values()) held.sort((one, other) => importance(one) - importance(other));
const textWidth = (text) => 7.4 * text.length + 16;
function logitWidth(node) { return Math.max(54, textWidth(node.label)); }
function sized(line) {
  const widths = tokens.map((token) => Math.max(50, textWidth(token) + 12));
  for (const [key, held] of cells) {
    const [row, pos] = key.split(" ").map(Number);
    if (row === layers + 1) {
      widths[pos] = Math.max(widths[pos], 2 * PAD + held.reduce((sum, at) => sum + logitWidth(nodes[at]) + 6, 0));
    } else if (row > 0) {
      widths[pos] = Math.max(widths[pos], 2 * PAD + STEP * Math.min(held.length, line));
    }
  }
  return { widths, spare: plane.clientWidth - LEFT - 14 - widths.reduce((sum, width) => sum + width, 0) };
}
// as many nodes side by side as the width has room for; what is left of it goes to all columns alike
const sizes = [8, 7, 6, 5, 4, 3].map(sized), chosen = sizes.find((size) => size.spare >= 0) || sizes[sizes.length - 1];
const { widths, spare } = chosen;
if (spare > 0) widths.forEach((width, pos) => { widths[pos] = width + spare / widths.length; });
const lineOf = widths.map((width) => Math.max(3, Math.min(10, Math.floor((width - 2 * PAD) / STEP))));
const heights = Array.from({ length: layers + 2 }, () => 52);
for (const [key, held] of cells) {
  const [row, pos] = key.split(" ").map(Number);
  if (row > 0 && row <= layers) heights[row] = Math.max(heights[row], 30 + STEP * Math.ceil(held.length / lineOf[pos]));
}
const lefts = widths.map((_, pos) => LEFT + widths.slice(0, pos).reduce((sum, width) => sum + width, 0));
const bottoms = [], total = heights.reduce((sum, height) => sum + height, 0);
heights.reduce((below, height) => { bottoms.push(total - below + 8); return below + height; }, 0);
const wide = LEFT + widths.reduce((sum, width) => sum + width, 0) + 12;

const places = nodes.map(() => [0, 0]);
for (const [key, held] of cells) {
  const [row, pos] = key.split(" ").map(Number), middle = lefts[pos] + widths[pos] / 2, y = bottoms[row] - heights[row] / 2;
  if (row === layers + 1) {
    let x = middle - held.reduce((sum, at) => sum + logitWidth(nodes[at]) + 6, -6) / 2;
    for (const at of held) { const width = logitWidth(nodes[at]); places[at] = [x + width / 2, y]; x += width + 6; }
    continue;
  }
  const most = lineOf[pos], lines = Math.ceil(held.length / most);
  held.forEach((at, number) => {
    const line = Math.floor(number / most), own = Math.min(most, held.length - line * most);
    places[at] = [middle + STEP * ((number % most) - (own - 1) / 2), y + STEP * (line - (lines - 1) / 2)];
  });
}

const picture = draw("svg", { width: wide, height: total + 16, viewBox: `0 0 ${wide} ${total + 16}`, role: "img", "aria-label": "Attribution graph" });
const axis = draw("g", {}, draw("rect", { class: "side", x: 0, y: 0, width: LEFT, height: total + 16 }));
heights.forEach((height, row) => {
  picture.append(draw("rect", { class: row % 2 ? "band odd" : "band", x: 0, y: bottoms[row] - height, width: wide, height }));
  const name = row === 0 ? "tokens" : row === layers + 1 ? "says" : "layer " + (row - 1);
  axis.append(draw("text", { class: "axis", x: 10, y: bottoms[row] - height / 2 + 4 }, name));
});
lefts.forEach((left) => picture.append(draw("line", { class: "rule", x1: left, x2: left, y1: 8, y2: total + 8 })));
const wires = draw("g", {}), dots = draw("g", {});
picture.append(wires, dots, axis);
plane.append(picture);
plane.addEventListener("scroll", () => axis.setAttribute("transform", `translate(${plane.scrollLeft} 0)`));

const drawn = nodes.map((node, at) => {
  const [x, y] = places[at], group = draw("g", { class: "node", tabindex: 0, role: "button", "aria-label": node.name });
  if (node.kind === "feature") {
    const circle = draw("circle", { class: "feature", cx: x, cy: y, r: 7 });
    circle.style.setProperty("--w", (0.92 - 0.8 * Math.min(1, node.rank / Math.max(share, 0.01))).toFixed(2));
    group.append(circle);
  } else if (node.kind === "error") {
    group.append(draw("path", { class: "error", d: `M${x} ${y - 7} ${x + 7} ${y} ${x} ${y + 7} ${x - 7} ${y}Z` }));
  } else {
    const label = node.kind === "token" ? tokens[node.pos] : node.label;
    const width = node.kind === "token" ? textWidth(label) : logitWidth(node), tall = node.kind === "token" ? 26 : 36;
    group.append(draw("rect", { class: node.kind, x: x - width / 2, y: y - tall / 2, width, height: tall, rx: 6 }));
    group.append(draw("text", { x, y: node.kind === "token" ? y + 4 : y - 1 }, label));
    if (node.kind === "logit") group.append(draw("text", { class: "small", x, y: y + 12 }, percent(node.share)));
  }
  group.append(draw("title", {}, node.name));
  group.addEventListener("mouseenter", () => show(at));
  group.addEventListener("mouseleave", () => show(kept));
  group.addEventListener("click", (event) => { event.stopPropagation(); keep(kept === at ? null : at); });
  group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); keep(kept === at ? null : at); } });
  dots.append(group);
  return group;
});
function percent(part) { return part >= 0.9995 && part < 1 ? ">99.9%" : (100 * part).toFixed(1) + "%"; }

let kept = null, path = null;
const hidden = (at) => (nodes[at].rank !== undefined && nodes[at].kind !== "token" && nodes[at].rank > limit()) || (nodes[at].kind === "error" && !errors.checked);
const limit = () => (rank.value === "100" ? Infinity : (share * rank.value) / 100);
const visibleEdges = (list) => list.filter((at) => !hidden(edges[at][0]) && !hidden(edges[at][1]));
const byScore = edges.map((_, at) => at).sort((one, other) => edges[other][3] - edges[one][3]);
const amount = () => Math.round(edges.length ** (count.value / 100) - (count.value === "0" ? 1 : 0));

const reach = (node) => ({ token: 13, logit: 18 })[node.kind] || 7;
function wire(at, width, opacity) {
  const [source, target, weight] = edges[at], x = places[source][0], u = places[target][0];
  const y = places[source][1] - reach(nodes[source]), v = places[target][1] + reach(nodes[target]), bend = 0.45 * (y - v);
  wires.append(draw("path", { class: "edge " + (weight < 0 ? "minus" : "plus"), d: `M${x} ${y}C${x} ${y - bend} ${u} ${v + bend} ${u} ${v}`, "stroke-width": width.toFixed(2), opacity: opacity.toFixed(2) }));
}
function show(at) {
  wires.replaceChildren();
  const near = new Set();
  if (at === null && path === null) {
    const shown = visibleEdges(byScore).slice(0, amount());
    const most = shown.length ? edges[shown[0]][3] : 1;
    for (const edge of shown.reverse()) { const part = Math.sqrt(edges[edge][3] / most); wire(edge, 0.6 + 3.4 * part, 0.12 + 0.5 * part); }
  } else if (at === null) {
    for (const edge of path[2]) wire(edge, 3, 0.85);
    path[1].forEach((node) => near.add(node));
  } else {
    near.add(at);
    for (const list of [ins[at], outs[at]]) {
      const own = visibleEdges(list), most = Math.max(...own.map((edge) => Math.abs(edges[edge][2])), 1e-9);
      for (const edge of own) {
        const part = Math.abs(edges[edge][2]) / most;
        wire(edge, 0.7 + 4.3 * part, 0.25 + 0.65 * Math.sqrt(part));
        near.add(edges[edge][0]).add(edges[edge][1]);
      }
    }
  }
  drawn.forEach((group, node) => {
    group.style.display = hidden(node) ? "none" : "";
    group.classList.toggle("faded", near.size > 0 && !near.has(node));
    group.classList.toggle("chosen", node === at || (at === null && path !== null && path[1].includes(node)));
  });
  tell(at);
}
function ends(title, list, side) {
  const own = visibleEdges(list).sort((one, other) => Math.abs(edges[other][2]) - Math.abs(edges[one][2]));
  const most = own.length ? Math.abs(edges[own[0]][2]) : 1, table = html("div", { class: "ends" });
  for (const edge of own.slice(0, 14)) {
    const weight = edges[edge][2], other = edges[edge][side], button = html("button", { title: nodes[other].name }, nodes[other].name);
    button.addEventListener("click", () => keep(other));
    const fill = html("u", { class: weight < 0 ? "minus" : "plus", style: `width:${(100 * Math.abs(weight)) / most}%` });
    table.append(button, html("span", { class: "track" }, fill), html("b", {}, signed(weight)));
  }
  const more = own.length > 14 ? ` (14 of ${own.length})` : "";
  return own.length ? [html("h4", {}, title + more), table] : [];
}
function tellPath() {
  const [part, way, along] = path, table = html("div", { class: "ends" });
  const most = Math.max(...along.map((edge) => Math.abs(edges[edge][2])), 1e-9);
  for (const edge of along) {
    const [, target, weight] = edges[edge], button = html("button", { title: nodes[target].name }, "→ " + nodes[target].name);
    button.addEventListener("click", () => keep(target));
    const fill = html("u", { class: weight < 0 ? "minus" : "plus", style: `width:${(100 * Math.abs(weight)) / most}%` });
    table.append(button, html("span", { class: "track" }, fill), html("b", {}, signed(weight)));
  }
  panel.replaceChildren(html("h3", {}, nodes[way[0]].name), html("p", {}, `${percent(part)} of what is predicted goes this way`), table);
}
const signed = (weight) => (weight > 0 ? "+" : "") + weight.toPrecision(3);
function tell(at) {
  if (at === null && path !== null) return tellPath();
  if (at === null) {
    const features = nodes.filter((node, one) => node.kind === "feature" && !hidden(one)).length;
    panel.replaceChildren(html("h3", {}, "Nothing chosen"), html("p", {}, `${features} features; the edges drawn are those that carry most of the influence on what is predicted. Darker features matter more.`));
    return;
  }
  const node = nodes[at], facts = [];
  if (node.kind === "feature") facts.push(`active ${node.active}`);
  if (node.rank !== undefined) facts.push(`within the top ${percent(node.rank)} of the influence`);
  if (node.kind === "logit") facts.push(`probability ${percent(node.share)}`);
  if (node.kind === "error") facts.push("what the transcoders miss here");
  const parts = [html("h3", {}, node.name), html("p", {}, facts.join(", "))];
  if (node.top && node.top.length) {
    parts.push(html("h4", {}, "promotes, straight through the unembedding"));
    parts.push(html("div", { class: "tops" }, ...node.top.map(([token, value]) => html("span", { title: "+" + value }, token))));
  }
  panel.replaceChildren(...parts, ...ends("comes from", ins[at], 0), ...ends("goes to", outs[at], 1));
}
function keep(at) { kept = at; path = null; mark(null); show(at); }

const list = html("ol", {}), between = new Map(edges.map(([source, target], at) => [source + " " + target, at]));
const buttons = paths.map(([part, way]) => {
  const button = html("button", {}, html("b", {}, percent(part))), text = html("span", {});
  way.forEach((at, step) => { if (step) text.append(html("i", {}, "→")); text.append(nodes[at].name); });
  const along = way.slice(1).map((at, step) => between.get(way[step] + " " + at)).filter((edge) => edge !== undefined);
  button.append(text);
  button.addEventListener("click", () => { const again = path !== null && path[1] === way; path = again ? null : [part, way, along]; kept = null; mark(again ? null : button); show(null); });
  list.append(html("li", {}, button));
  return button;
});
function mark(chosen) { buttons.forEach((button) => button.classList.toggle("chosen", button === chosen)); }
document.querySelector("#paths").append(list);
function settle() {
  document.querySelector("#rank-said").textContent = rank.value === "100" ? "all" : percent(limit());
  document.querySelector("#count-said").textContent = amount();
  show(kept);
}
for (const input of [rank, count, errors]) input.addEventListener("input", settle);
picture.addEventListener("click", () => keep(null));
// graph.html#2_107_5 opens with that node
const named = nodes.findIndex((node) => node.id === decodeURIComponent(location.hash.slice(1)));
if (named >= 0) kept = named;
settle();
plane.scrollLeft = wide;

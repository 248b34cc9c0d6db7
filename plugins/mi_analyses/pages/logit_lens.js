"use strict";
for (const section of document.querySelectorAll(".lens")) {
  const columns = JSON.parse(section.querySelector("script").textContent);
  const panel = section.querySelector(".panel");
  const story = section.querySelector(".story");
  const kept = { column: columns.length - 1, rung: columns.length ? columns[0].steps.length - 1 : 0 };
  let told = -1;

  // everything goes in as text, never as markup
  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const percent = (p) => (p > 0 && p < 0.0005 ? "<0.1%" : p >= 0.9995 && p < 1 ? ">99.9%" : (100 * p).toFixed(1) + "%");
  const track = (p) => make("div", { class: "track" }, make("u", { style: `width:${100 * p}%` }));
  const fixed = (x) => (x === null ? "-" : x.toFixed(2));

  function detail(column, rung) {
    const { at, answer, steps } = columns[column];
    const step = steps[rung];
    const bars = make("div", { class: "bars" });
    for (const [token, p] of step.top) bars.append(make("span", {}, token), track(p), make("b", {}, percent(p)));
    const facts = make("dl");
    const fact = (name, value) => facts.append(make("dt", {}, name), make("dd", {}, value));
    fact("entropy", fixed(step.entropy) + " nats");
    fact("KL from the final", fixed(step.kl) + " nats");
    fact("final answer " + answer, `${percent(step.p)}  #${step.rank}`);
    for (const [token, p, rank] of step.followed) fact(token, `${percent(p)}  #${rank}`);
    panel.replaceChildren(make("h3", {}, "after ", make("b", {}, step.label), " at ", make("b", {}, at)), bars, facts);
  }

  function tell(column) {
    if (told === column) return;
    told = column;
    const { at, says, answer, steps } = columns[column];
    const head = make("tr");
    for (const name of ["layer", "", "p(" + answer + ")", "rank", "entropy", "KL"]) head.append(make("th", {}, name));
    head.append(make("th", { class: "wide" }, "says"));
    const body = make("tbody");
    steps.forEach((step, rung) => {
      const said = make("td", { class: "wide" });
      for (const [token, p] of step.top) {
        const mine = token === answer ? " answer" : "";
        said.append(make("span", { class: "says" + mine, style: `background:rgb(var(--hot) / ${0.6 * p})` }, token), " ");
      }
      body.append(
        make("tr", { class: "rung " + step.label.split(".")[1], "data-column": column, "data-rung": rung, tabindex: 0 },
          make("td", {}, step.label), make("td", {}, track(step.p)), make("td", {}, percent(step.p)),
          make("td", {}, "#" + step.rank), make("td", {}, fixed(step.entropy)), make("td", {}, fixed(step.kl)), said));
    });
    const place = make("code", {}, at);
    story.replaceChildren(make("h2", {}, "At ", place), make("p", { class: "note" }, says),
      make("div", { class: "scroll" }, make("table", { class: "ladder" }, make("thead", {}, head), body)));
  }

  function show(column, rung) {
    tell(column);
    detail(column, rung);
    for (const node of section.querySelectorAll(".now")) node.classList.remove("now");
    const position = parseInt(columns[column].at, 10);
    section.querySelectorAll(".chip")[position]?.classList.add("now");
    section.querySelector(`thead [data-column="${column}"]`)?.classList.add("now");
    for (const node of section.querySelectorAll(`[data-column="${column}"][data-rung="${rung}"]`)) node.classList.add("now");
  }

  const target = (event) => event.target.closest("[data-column]");
  const rungOf = (node) => ("rung" in node.dataset ? +node.dataset.rung : columns[+node.dataset.column].steps.length - 1);
  const keep = (event) => {
    const node = target(event);
    if (!node) return;
    [kept.column, kept.rung] = [+node.dataset.column, rungOf(node)];
    show(kept.column, kept.rung);
  };
  // a glance changes the panel; a click also moves the story below to that position
  const glance = (event) => { const node = target(event); if (node) detail(+node.dataset.column, rungOf(node)); };
  section.addEventListener("click", keep);
  section.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); keep(event); } });
  section.addEventListener("mouseover", glance);
  section.addEventListener("focusin", glance);
  section.addEventListener("mouseleave", () => detail(kept.column, kept.rung));
  if (columns.length) show(kept.column, kept.rung);
}

// SPDX-License-Identifier: Apache-2.0

// One journey: how it ended and its lines.

function show() {
  const j = selected;
  if (!j) {
    $("end").replaceChildren();
    $("map").replaceChildren();
    $("line").replaceChildren();
    $("end").hidden = $("map").hidden = $("line").hidden = true;
    return;
  }
  $("end").hidden = $("map").hidden = $("line").hidden = false;
  history.replaceState(null, "", "#" + encodeURIComponent(j.i));
  const lines = linesOf(j), steps = lines.filter((l) => l.box >= 0);
  steps.forEach((s, i) => s.no = i + 1);
  drawEnd(j, lines, steps);
  drawMap(j, steps);
  drawLine(j, steps);
}

const placeOf = (l) => (l.box >= 0 ? boxes[l.box].name : "") + (l.dev ? "/" + l.dev : "");

function drawEnd(j, lines, steps) {
  const end = lines.find((l) => l.kind === "end") || { what: outcome(j), box: -1, t: j.d };
  const said = (kind) => lines.filter((l) => l.kind === kind).map((l) => {
    const m = /^(because|advice:|note:) (.*)$/s.exec(l.what);
    return el("p", { class: kind }, m ? el("b", {}, m[1]) : "", m ? " " + m[2] : l.what);
  });
  $("end").className = outcome(j);
  $("end").replaceChildren(
    el("h2", {}, S[j.p], el("small", {}, "#" + j.i + " · " + j.c + (j.r ? " · reply" : ""))),
    el("p", { class: "what" }, end.what, el("span", {}, end.box >= 0 ? " in " + placeOf(end) + ", " + micros(end.t) + " after it was first seen" : "")),
    ...said("because"), ...said("advice"), ...said("note"));
}

function drawLine(j, steps) {
  const total = Math.max(j.d, ...steps.map((s) => s.t)), items = [];
  let before = 0;
  for (const s of steps) {
    const bar = el("i", {});
    if (total) {
      bar.style.left = 100 * Math.min(before, s.t) / total + "%";
      bar.style.width = 100 * Math.max(0, s.t - before) / total + "%";
    }
    const took = s.t - before;
    before = Math.max(before, s.t);
    const odd = /contradiction: /.test(s.what);
    const li = el("li", { class: "k-" + s.group + (s.kind === "end" ? " end " + outcome(j) : "") + (odd ? " odd" : ""), "data-no": s.no },
      el("span", { class: "no" }, String(s.no)),
      el("span", { class: "t", title: took > 0 ? "+" + micros(took) : undefined }, micros(s.t)),
      el("span", { class: "bar", "aria-hidden": "true" }, bar),
      el("span", { class: "at" }, boxes[s.box].name, el("span", {}, s.dev ? "/" + s.dev : "")),
      el("span", { class: "tag" }, s.kind === "end" ? "end" : s.group),
      el("span", { class: "what" }, s.what, s.mark ? el("span", { class: "chg" }, s.mark) : ""));
    li.addEventListener("mouseenter", () => heat(s.no));
    li.addEventListener("mouseleave", () => heat());
    items.push(li);
  }
  $("line").replaceChildren(...items);
}

// heat shows which lines and which places belong together.
function heat(...numbers) {
  for (const e of document.querySelectorAll("#map .num, #line li"))
    e.classList.toggle("hot", numbers.some((n) => (e.dataset.no || "").split(" ").includes(String(n))));
}

// SPDX-License-Identifier: Apache-2.0

// Flows, which of their packets are shown, and the head of the page.

const flows = [];
(() => {
  const by = new Map();
  for (const j of journeys) {
    let f = by.get(j.f);
    if (!f) by.set(j.f, f = { name: S[j.f], all: [], bad: 0 }), flows.push(f);
    f.all.push(j);
    j.flow = f;
    if (outcome(j) === "dropped") f.bad++;
  }
})();

const outcomes = new Map();
for (const j of journeys) outcomes.set(outcome(j), (outcomes.get(outcome(j)) || 0) + 1);

let only = "";      // outcome that is shown; empty: all
let words = [];     // of the filter
let shown = [];     // flows with the packets that are shown: {flow, list}
let rows = [];      // of the list: {flow, list} or {journey}
let cursor = 0;     // row
let selected = null;

// matcher tells whether a journey has all words anywhere in it.
function matcher() {
  if (!words.length) return (j) => true;
  const tests = words.map((w) => {
    const hit = Uint8Array.from(S, (s) => s.toLowerCase().includes(w)), places = new Map();
    const place = (box, dev) => {
      const k = box * S.length + dev;
      if (!places.has(k)) places.set(k, (boxes[box - 1].name + "/" + S[dev]).toLowerCase().includes(w));
      return places.get(k);
    };
    return (j) => hit[j.f] || hit[j.p] || hit[j.o] || j.x && hit[j.x] || ("#" + j.i).toLowerCase().includes(w) ||
      j.l.some((a) => hit[a[1] || 0] || hit[a[5] || 0] || a[3] && place(a[3], a[4] || 0));
  });
  return (j) => tests.every((t) => t(j));
}

function refilter() {
  const match = matcher();
  shown = [];
  for (const f of flows) {
    const list = f.all.filter((j) => (!only || outcome(j) === only) && match(j));
    if (list.length) shown.push({ flow: f, list });
  }
  if (!selected || !shown.some((s) => s.list.includes(selected))) selected = shown.length ? best(shown[0]) : null;
  rebuild();
  show();
}

// best is the packet of a flow that one would look at first.
const best = (s) => s.list.find((j) => outcome(j) === "dropped") || s.list[0];

function rebuild(onFlow) {
  rows = [];
  for (const s of shown) {
    rows.push(s);
    if (selected && s.flow === selected.flow) for (const j of s.list) rows.push({ journey: j });
  }
  cursor = rows.findIndex((r) => onFlow ? r.flow === onFlow : r.journey === selected);
  $("rows").style.height = rows.length * rowHeight + "px";
  drawRows(true);
}

function drawOutcomes() {
  $("outcomes").replaceChildren(...[...outcomes].sort((a, b) => b[1] - a[1]).map(([o, n]) => {
    const b = el("button", { type: "button", "aria-pressed": String(only === o) }, el("i", { class: "dot " + o }), o + " " + n.toLocaleString("en"));
    b.addEventListener("click", () => { only = only === o ? "" : o; drawOutcomes(); refilter(); });
    return b;
  }));
}
$("name").textContent = world.title;
$("about").textContent = [several(journeys.length, "packet") + " in " + several(flows.length, "flow"),
  world.nodes.length && (world.nodes.length > 1 ? "nodes " : "node ") + world.nodes.join(", "), world.kernels.length && "Linux " + world.kernels.join(", "),
  world.filter && "filter " + world.filter.join(" ")].filter(Boolean).join(" · ");
$("notes").replaceChildren(...world.notes.map((n) => el("p", {}, n)));

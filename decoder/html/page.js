
"use strict";
// The page draws itself from two pieces of JSON. What they say came from a
// recording and is foreign: it becomes text nodes and attributes, never HTML.
(() => {
const $ = (id) => document.getElementById(id);
const journeys = JSON.parse($("journeys").textContent);
const world = JSON.parse($("world").textContent);
const S = world.strings;

const el = (name, attrs, ...children) => fill(document.createElement(name), attrs, children);
const svg = (name, attrs, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attrs, children);
function fill(e, attrs, children) {
  for (const k in attrs) if (attrs[k] !== undefined && attrs[k] !== false) e.setAttribute(k, attrs[k]);
  e.append(...children.filter((c) => c !== undefined && c !== null && c !== ""));
  return e;
}
const micros = (ns) => Math.floor(ns / 1000) + "." + Math.floor(ns % 1000 / 100) + "µs";
const several = (n, word) => n.toLocaleString("en") + " " + word + (n === 1 ? "" : "s");
const cut = (s, n) => { const c = [...s]; return c.length > n ? c.slice(0, n - 1).join("") + "…" : s; };

// A line of a journey, as the page's writer packs it.
const lineOf = (a) => ({ kind: S[a[0]], group: S[a[0]].split("/")[0], what: S[a[1] || 0], t: a[2] || 0, box: (a[3] || 0) - 1, dev: S[a[4] || 0], mark: S[a[5] || 0], trail: a[6] || 0 });
const linesOf = (j) => j.l.map(lineOf);
const outcome = (j) => S[j.o];

// ---- the world: boxes, their devices and the links that journeys show ----

const boxes = world.boxes.map((b, i) => ({ n: i, name: b.name, known: b.devices, chips: new Map(), layer: 0 }));
function chipOf(b, dev) {
  let c = boxes[b].chips.get(dev);
  if (!c) {
    const known = boxes[b].known.find((d) => d.name === dev);
    boxes[b].chips.set(dev, c = { box: boxes[b], dev, known, up: 0, down: 0, links: 0 });
  }
  return c;
}
const links = new Map(); // of devices in different boxes, by their names
const order = [];        // pairs of boxes, in the direction of who spoke first
(() => {
  const seen = new Set(), later = [];
  const deviceKinds = new Set(S.flatMap((s, i) => s.startsWith("device/") ? [i] : []));
  for (const j of journeys) {
    const last = new Map();
    for (const a of j.l) {
      if (!a[3]) continue;
      if (!deviceKinds.has(a[0])) {
        if (S[a[0]] === "end" && a[4]) chipOf(a[3] - 1, S[a[4]]); // it may have died before any device of the box
        continue;
      }
      const c = chipOf(a[3] - 1, S[a[4] || 0]), trail = a[6] || 0, p = last.get(trail) || last.get(0);
      last.set(trail, c);
      c.seen = true;
      if (!p || p.box === c.box) continue;
      const pair = j.r ? [c.box.n, p.box.n] : [p.box.n, c.box.n], id = pair.join();
      if (!seen.has(id + (j.r ? "r" : ""))) { seen.add(id + (j.r ? "r" : "")); (j.r ? later : order).push(pair); }
      const [x, y] = p.box.n < c.box.n ? [p, c] : [c, p], key = JSON.stringify([x.box.n, x.dev, y.box.n, y.dev]);
      if (!links.has(key)) { links.set(key, [x, y]); x.links++; y.links++; }
    }
  }
  order.push(...later);
  // Layers: a box is behind all that lead to it; what would close a circle is left out.
  const next = boxes.map(() => new Set()), before = boxes.map(() => new Set());
  const reaches = (a, b) => {
    const todo = [a], done = new Set(todo);
    while (todo.length) {
      const x = todo.pop();
      if (x === b) return true;
      for (const y of next[x]) if (!done.has(y)) { done.add(y); todo.push(y); }
    }
    return false;
  };
  for (const [a, b] of order) if (!next[a].has(b) && !reaches(b, a)) { next[a].add(b); before[b].add(a); }
  const wait = before.map((s) => s.size), todo = boxes.filter((b) => !wait[b.n]).map((b) => b.n);
  const sorted = [];
  while (todo.length) {
    const a = todo.shift();
    sorted.push(a);
    for (const b of next[a]) {
      boxes[b].layer = Math.max(boxes[b].layer, boxes[a].layer + 1);
      if (!--wait[b]) todo.push(b);
    }
  }
  for (const a of sorted.reverse()) // who only speaks stands right before who listens
    if (!before[a].size && next[a].size) boxes[a].layer = Math.min(...[...next[a]].map((b) => boxes[b].layer)) - 1;
  for (const [x, y] of links.values())
    for (const [c, d] of [[x, y], [y, x]]) if (d.box.layer < c.box.layer) c.up++; else c.down++;
})();

// ---- flows and what is shown of them ----

const flows = [];
(() => {
  const by = new Map();
  journeys.forEach((j, i) => {
    j.n0 = i;
    let f = by.get(j.f);
    if (!f) by.set(j.f, f = { n: flows.length, name: S[j.f], all: [], bad: 0 }), flows.push(f);
    f.all.push(j);
    j.flow = f;
    if (outcome(j) === "dropped") f.bad++;
  });
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

// ---- the list, of which only what can be seen is made ----

const rowHeight = 46;
const list = $("list");
function drawRows(follow) {
  if (follow && cursor >= 0) {
    const y = cursor * rowHeight;
    if (y < list.scrollTop) list.scrollTop = y;
    else if (y + rowHeight > list.scrollTop + list.clientHeight) list.scrollTop = y + rowHeight - list.clientHeight;
  }
  const from = Math.max(0, Math.floor(list.scrollTop / rowHeight) - 4);
  const to = Math.min(rows.length, from + Math.ceil(Math.max(list.clientHeight, 300) / rowHeight) + 9);
  const made = [];
  for (let i = from; i < to; i++) made.push(row(rows[i], i));
  if (!rows.length) made.push(el("p", { class: "empty" }, journeys.length ? "nothing matches" : "this recording has no journeys"));
  $("rows").replaceChildren(...made);
  if (cursor >= from && cursor < to) list.setAttribute("aria-activedescendant", "row" + cursor);
  else list.removeAttribute("aria-activedescendant");
}

function row(r, i) {
  const e = r.journey ? packetRow(r.journey) : flowRow(r);
  e.id = "row" + i;
  e.setAttribute("role", "option");
  e.setAttribute("aria-selected", String(i === cursor));
  e.setAttribute("aria-posinset", i + 1);
  e.setAttribute("aria-setsize", rows.length);
  e.style.top = i * rowHeight + "px";
  e.addEventListener("click", () => go(i));
  return e;
}

function flowRow({ flow, list }) {
  const [proto, src, dst, ...rest] = flow.name.split(" ");
  const back = list.filter((j) => j.r).length, bad = list.filter((j) => outcome(j) === "dropped").length;
  const open = selected && selected.flow === flow;
  const dot = bad ? "dropped" : list.every((j) => ["delivered", "forwarded"].includes(outcome(j))) ? "delivered" : outcome(list.find((j) => !["delivered", "forwarded"].includes(outcome(j))));
  return el("div", { class: "row flow" + (open ? " open" : ""), title: flow.name || "packets of no flow" },
    el("div", {}, el("span", { class: "proto" }, flow.name ? proto : ""), el("span", { class: "mono grow" }, flow.name ? src : "packets of no flow"), el("i", { class: "dot " + dot })),
    el("div", {}, el("span", { class: "proto" }), el("span", { class: "mono grow" }, flow.name ? "→ " + dst + (rest.length ? " " + rest.join(" ") : "") : ""),
      el("small", {}, (list.length - back) + " → " + (back ? "← " + back : ""))));
}

function packetRow(j) {
  const brief = S[j.p].replace(/^(\S+) \S+ → \S+/, "$1");
  return el("div", { class: "row packet" + (j === selected ? " sel" : ""), title: S[j.p] },
    el("div", {}, el("b", { class: "arrow", "aria-label": j.r ? "back" : "there" }, j.r ? "←" : "→"), el("span", { class: "mono grow" }, brief), el("small", {}, outcome(j)), el("i", { class: "dot " + outcome(j) })),
    el("div", {}, el("small", { class: "grow" }, j.c), el("small", {}, micros(j.d))));
}

// go moves to a row: to a packet, or to the first one worth looking at of a flow.
function go(i) {
  const r = rows[Math.max(0, Math.min(rows.length - 1, i))];
  if (!r) return;
  if (r.journey) selected = r.journey; else selected = best(r);
  rebuild(r.flow);
  show();
}

list.addEventListener("scroll", () => drawRows(false), { passive: true });
list.addEventListener("keydown", (e) => {
  const page = Math.max(1, Math.floor(list.clientHeight / rowHeight) - 1);
  const to = { ArrowDown: cursor + 1, ArrowUp: cursor - 1, PageDown: cursor + page, PageUp: cursor - page, Home: 0, End: rows.length - 1 }[e.key];
  if (to === undefined) return;
  e.preventDefault();
  go(to);
});
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === "/" && document.activeElement !== $("filter")) {
    e.preventDefault();
    $("filter").focus();
  } else if (e.key === "Escape") {
    $("filter").value = "";
    words = [];
    only = "";
    drawOutcomes();
    refilter();
    list.focus();
  }
});
$("filter").addEventListener("input", () => {
  words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  refilter();
});
$("filter").addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === "ArrowDown") { e.preventDefault(); list.focus(); } });

// ---- the head ----

function drawOutcomes() {
  $("outcomes").replaceChildren(...[...outcomes].sort((a, b) => b[1] - a[1]).map(([o, n]) => {
    const b = el("button", { type: "button", "aria-pressed": String(only === o) }, el("i", { class: "dot " + o }), o + " " + n.toLocaleString("en"));
    b.addEventListener("click", () => { only = only === o ? "" : o; drawOutcomes(); refilter(); });
    return b;
  }));
}
$("name").textContent = world.title;
$("about").textContent = [several(journeys.length, "packet") + " in " + several(flows.length, "flow"),
  world.node && "node " + world.node, world.kernel && "Linux " + world.kernel,
  world.filter && "filter " + world.filter.join(" ")].filter(Boolean).join(" · ");
$("notes").replaceChildren(...world.notes.map((n) => el("p", {}, n)));

// ---- one journey ----

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
    li.addEventListener("mouseleave", () => heat(0));
    items.push(li);
  }
  $("line").replaceChildren(...items);
}

// heat shows which line belongs to which place.
function heat(no) {
  for (const e of document.querySelectorAll("#map .num, #line li")) {
    const nos = (e.dataset.no || "").split(" ");
    e.classList.toggle("hot", no > 0 && nos.includes(String(no)));
  }
}

// ---- the picture ----

const widest = 138, chipH = 24, most = 8, crowd = 14;

function drawMap(j, steps) {
  const ours = new Set(), keep = new Set(), used = new Set(); // boxes and devices of this flow, devices of this packet
  for (const x of j.flow.all.slice(0, 500)) for (const a of x.l) {
    if (!a[3]) continue;
    ours.add(a[3] - 1);
    const c = a[4] && boxes[a[3] - 1].chips.get(S[a[4]]);
    if (c) keep.add(c);
  }
  for (const s of steps) {
    ours.add(s.box);
    if (s.dev && boxes[s.box].chips.has(s.dev)) used.add(boxes[s.box].chips.get(s.dev));
  }
  const room = $("map").clientWidth - 26;
  let shownBoxes = boxes.filter((b) => boxes.length <= crowd || ours.has(b.n));
  const end = steps.find((s) => s.kind === "end");
  const tail = end && { box: end.box, far: endFar(steps.slice(steps.findLastIndex((s) => s.group === "device" && !s.trail) + 1).length - 1) };
  let plan = across(shownBoxes, keep, tail);
  let down = false;
  if (plan.w * 0.74 > room) {
    const few = boxes.filter((b) => ours.has(b.n));
    const smaller = across(few, keep, tail);
    if (smaller.w * 0.74 <= room) { plan = smaller; shownBoxes = few; }
    else { plan = along(few, keep, Math.min(room, 520), tail); shownBoxes = few; down = true; }
  }
  const root = svg("svg", { viewBox: "0 0 " + plan.w + " " + plan.h, width: down ? plan.w : Math.min(plan.w, room), role: "img", "aria-label": "the way of the packet: " + steps.map(placeOf).join(", ") });
  root.append(svg("defs", {}, svg("marker", { id: "tip", viewBox: "0 0 10 10", refX: 8, refY: 5, markerWidth: 11, markerHeight: 11, markerUnits: "userSpaceOnUse", orient: "auto" }, svg("path", { d: "M0 0L10 5L0 10Z", class: "tip" }))));
  const on = new Set(steps.map((s) => s.box));
  for (const b of shownBoxes) {
    const dead = end && outcome(j) === "dropped" && end.box === b.n;
    const g = svg("g", { class: "box" + (on.has(b.n) ? " on" : "") + (dead ? " dead" : "") },
      svg("title", {}, b.name), svg("rect", { x: b.x, y: b.y, width: b.w, height: b.h, rx: 9 }),
      svg("text", { x: b.x + 12, y: b.y + 19 }, cut(b.name, Math.floor((b.w - 16) / 7.2))));
    if (b.more) g.append(svg("text", { class: "more", x: b.x + 12, y: b.y + b.h - 8 }, svg("title", {}, b.moreAll), cut(b.more, Math.floor((b.w - 16) / 5.6))));
    root.append(g);
  }
  for (const [x, y] of links.values())
    if (x.at && y.at && shownBoxes.includes(x.box) && shownBoxes.includes(y.box)) root.append(svg("path", { class: "link", d: bend(x.outer, y.outer).d }));
  drawWay(root, j, steps, shownBoxes, used, down, plan.w);
  const skipped = boxes.length - shownBoxes.length;
  $("map").replaceChildren(root, skipped ? el("figcaption", {}, several(skipped, "more namespace") + " in this recording " + (skipped === 1 ? "is" : "are") + " not on this flow's way") : "");
}

// endFar is how far behind a device the end is drawn, with so many numbers before it.
const endFar = (numbers) => 46 + 21 * Math.min(3, Math.max(0, numbers));

// pick is the devices of a box that are drawn, by the side they are on.
function pick(b, keep, few) {
  const side = (c) => !c.seen ? "b" : !c.links && (c.known && c.known.kind === "bridge" || b.chips.size > 1 && c.known && !c.up && !c.down) ? "mid" : c.up > c.down || c.up && c.up === c.down ? "a" : c.up || c.down ? "b" : "a";
  const sides = { a: [], b: [], mid: [] }, rest = [];
  for (const c of b.chips.values()) c.at = null;
  for (const c of [...b.chips.values()].sort((x, y) => keep.has(y) - keep.has(x))) {
    const list = sides[side(c)];
    if (list.length < most && (!few || keep.has(c))) list.push(c); else rest.push(c.dev);
  }
  for (const k in sides) sides[k].sort((x, y) => x.dev < y.dev ? -1 : 1);
  const also = [...rest, ...b.known.map((d) => d.name).filter((d) => d !== "lo" && !b.chips.has(d))];
  b.moreAll = also.join(", ");
  b.more = !also.length ? "" : also.length <= 2 ? "also " + also.join(", ") : "also " + also[0] + " and " + (also.length - 1) + " more";
  return sides;
}

function setChip(c, x, y, w, side, down) {
  const mx = x + w / 2, my = y + chipH / 2;
  const L = { x, y: my, dx: -1, dy: 0 }, R = { x: x + w, y: my, dx: 1, dy: 0 }, T = { x: mx, y, dx: 0, dy: -1 }, B = { x: mx, y: y + chipH, dx: 0, dy: 1 };
  c.at = { x, y, w };
  c.side = side;
  if (side === "mid") { c.ends = down ? [T, B] : [L, R]; c.outer = down ? T : L; c.inner = down ? B : R; }
  else { const [a, b] = down ? [T, B] : [L, R]; c.ends = null; c.outer = side === "a" ? a : b; c.inner = side === "a" ? b : a; }
}

// wide is the width that the devices of a side need, and have all of them.
const wide = (list) => Math.min(widest, Math.max(0, ...list.map((c) => Math.max(72, 38 + 6.7 * [...c.dev].length))));

const layersOf = (list) => {
  const by = new Map();
  for (const b of list) by.has(b.layer) ? by.get(b.layer).push(b) : by.set(b.layer, [b]);
  return [...by].sort((a, b) => a[0] - b[0]).map((x) => x[1]);
};

// across lays the world out from left to right.
function across(list, keep, tail) {
  const gapX = 44, gapY = 20, edge = 12, stick = 10;
  let x = edge + stick, height = 0;
  const columns = layersOf(list).map((column) => {
    let w = 0, h = -gapY;
    for (const b of column) {
      const s = b.sides = pick(b, keep, list.length < boxes.length);
      const n = Math.max(s.a.length, s.b.length, 1), both = s.a.length && s.b.length;
      const a = wide(s.a) - (s.a.length ? stick : 0), c = wide(s.b) - (s.b.length ? stick : 0), middle = s.mid.length ? wide(s.mid) + 62 : 0;
      b.w = Math.max(a + c + Math.max(both ? 96 : 78, middle, tail && tail.box === b.n ? tail.far + 28 : 0), Math.min(230, 30 + 8 * b.name.length));
      b.h = 34 + n * (chipH + 12) + s.mid.length * (chipH + 14) + (b.more ? 18 : 4);
      w = Math.max(w, b.w);
      h += b.h + gapY;
    }
    height = Math.max(height, h);
    return { column, w, h };
  });
  for (const { column, w, h } of columns) {
    let y = edge + (height - h) / 2;
    for (const b of column) {
      b.x = x; b.y = y; b.w = w;
      const rows = Math.max(b.sides.a.length, b.sides.b.length, 1);
      for (const side of ["a", "b"]) {
        const list = b.sides[side], w = wide(list), top = b.y + 34 + (rows - list.length) * (chipH + 12) / 2;
        list.forEach((c, i) => setChip(c, side === "a" ? b.x - stick : b.x + b.w - w + stick, top + i * (chipH + 12), w, side, false));
      }
      const from = b.x + (b.sides.a.length ? wide(b.sides.a) - stick : 0), to = b.x + b.w - (b.sides.b.length ? wide(b.sides.b) - stick : 0);
      const mw = wide(b.sides.mid) + 14;
      b.sides.mid.forEach((c, i) => setChip(c, (from + to - mw) / 2, b.y + 34 + rows * (chipH + 12) + 4 + i * (chipH + 14), mw, "mid", false));
      b.mid = { x: b.x + b.w / 2, y: b.y + 34 + rows * (chipH + 12) / 2 };
      y += b.h + gapY;
    }
    x += w + gapX + 2 * stick;
  }
  return { w: x - gapX - stick + edge, h: height + 2 * edge + 10 };
}

// along lays it out from the top down, for narrow windows.
function along(list, keep, width, tail) {
  const gapY = 44, edge = 6;
  let y = edge;
  for (const row of layersOf(list)) {
    const w = (width - 2 * edge - (row.length - 1) * 8) / row.length;
    let tallest = 0;
    row.forEach((b, i) => {
      b.sides = pick(b, keep, true);
      b.more = "";
      b.x = edge + i * (w + 8); b.y = y; b.w = w;
      b.h = 58 + (b.sides.a.length && b.sides.b.length ? 80 : tail && tail.box === b.n ? tail.far + 24 : 16) + b.sides.mid.length * (chipH + 26);
      tallest = Math.max(tallest, b.h);
    });
    for (const b of row) {
      b.h = tallest;
      const place = (list, top, side) => {
        const cw = Math.min(widest, (b.w - 8) / Math.max(1, list.length) - 4);
        list.forEach((c, i) => setChip(c, b.x + (b.w - list.length * (cw + 4)) / 2 + i * (cw + 4) + 2, top, cw, side, true));
      };
      place(b.sides.a, b.y + 28, "a");
      place(b.sides.b, b.y + b.h - chipH + 10, "b");
      b.sides.mid.forEach((c, i) => setChip(c, b.x + b.w / 2 - Math.min(widest, b.w - 8) / 2, b.y + 28 + chipH + 30 + i * (chipH + 26), Math.min(widest, b.w - 8), "mid", true));
      b.mid = { x: b.x + b.w / 2, y: b.y + b.h / 2 };
    }
    y += tallest + gapY;
  }
  return { w: width, h: y - gapY + 22 };
}

// bend is a curve from one end to another; both point away from what they are of.
function bend(p, q) {
  const far = Math.hypot(q.x - p.x, q.y - p.y), k = Math.max(Math.min(18, far / 2), far * 0.42);
  const c = [p, { x: p.x + p.dx * k, y: p.y + p.dy * k }, { x: q.x + q.dx * k, y: q.y + q.dy * k }, q];
  const f = (v) => Math.round(v * 10) / 10;
  return {
    d: "M" + f(p.x) + " " + f(p.y) + "C" + c.slice(1).map((o) => f(o.x) + " " + f(o.y)).join(" "),
    far,
    at: (t) => { const u = 1 - t, m = (i) => u * u * u * c[0][i] + 3 * u * u * t * c[1][i] + 3 * u * t * t * c[2][i] + t * t * t * c[3][i]; return { x: m("x"), y: m("y") }; },
  };
}

// drawWay draws the selected packet's way: a curve from device to device, what was
// decided between them as numbers on it, and where it ended.
function drawWay(root, j, steps, shownBoxes, used, down, room) {
  const ways = svg("g", {}), chips = svg("g", {}), top = svg("g", {});
  const numbers = new Map(); // of chips
  const drawn = (s) => { const c = boxes[s.box].chips.get(s.dev); return c && c.at ? c : null; };
  let whole = "";
  const trails = new Map(); // where each packet is: {chip, between}
  const near = (c, q) => !c.ends ? c.inner : Math.hypot(c.ends[0].x - q.x, c.ends[0].y - q.y) <= Math.hypot(c.ends[1].x - q.x, c.ends[1].y - q.y) ? c.ends[0] : c.ends[1];
  const from = (c, other, sameBox) => sameBox ? near(c, other.at ? { x: other.at.x + other.at.w / 2, y: other.at.y } : other) : c.outer;

  // along a curve: its arrow and the numbers of what was decided on it
  function walk(curve, between, cls, tip) {
    ways.append(svg("path", { class: "way" + cls, d: curve.d, "marker-end": tip ? "url(#tip)" : undefined }));
    if (!cls) whole += curve.d;
    if (!between.length) return;
    const room = Math.max(1, Math.floor((curve.far - 14) / 21));
    if (between.length <= room) between.forEach((s, i) => number(curve.at((i + 1) / (between.length + 1)), [s]));
    else number(curve.at(0.5), between);
  }
  function number(p, list) {
    const kinds = new Set(list.map((s) => s.group)), text = list.length === 1 ? String(list[0].no) : list[0].no + "–" + list[list.length - 1].no;
    const w = Math.max(18, 8 + 6.2 * text.length);
    const g = svg("g", { class: "num " + (kinds.size === 1 ? [...kinds][0] : ""), "data-no": list.map((s) => s.no).join(" ") },
      svg("title", {}, list.map((s) => s.no + "  " + s.what).join("\n")),
      svg("rect", { x: p.x - w / 2, y: p.y - 9, width: w, height: 18, rx: 9 }), svg("text", { x: p.x, y: p.y + 3.6 }, text));
    g.addEventListener("mouseenter", () => list.forEach((s) => heat(s.no)));
    g.addEventListener("mouseleave", () => heat(0));
    top.append(g);
  }

  for (const s of steps) {
    const copy = s.trail ? " copy" : "";
    if (!trails.has(s.trail)) trails.set(s.trail, { chip: (trails.get(0) || {}).chip, between: [] });
    const state = trails.get(s.trail);
    if (s.group === "device") {
      const c = drawn(s);
      if (!c) continue;
      numbers.has(c) ? numbers.get(c).push(s) : numbers.set(c, [s]);
      const p = state.chip;
      if (p && p !== c) {
        const same = p.box === c.box, a = from(p, c, same), b = from(c, p, same);
        if (!copy && whole) whole += "L" + a.x + " " + a.y;
        const curve = bend(a, b);
        walk(whole && !copy ? { ...curve, d: curve.d } : curve, state.between, copy, true);
        const m = state.carry;
        if (m && !same) {
          top.append(svg("g", { class: "mark" }, svg("text", { x: curve.at(0.5).x, y: curve.at(0.5).y + (down ? 4 : -9) }, m)));
        }
        state.between = [];
      } else if (p === c && state.between.length) {
        numbers.get(c).push(...state.between);
        numbers.get(c).sort((x, y) => x.no - y.no);
        state.between = [];
      }
      state.chip = c;
    } else if (s.kind !== "end") state.between.push(s);
    if (s.mark) state.carry = (/^0x[0-9a-f]+/.exec(s.mark.slice(5).split(" → ").pop()) || [""])[0];
    if (s.kind === "end") { // of the packet itself, or of a copy that arrived
      const all = [trails.get(0), ...trails.values()].filter(Boolean);
      const ended = all.find((x) => x.chip && x.chip.box.n === s.box) || all[0];
      finish(s, ended);
      if (ended) ended.between = [];
    }
  }

  function finish(s, state) {
    const b = boxes[s.box], c = state && state.chip, o = outcome(j), between = (state && state.between) || [];
    let p, hop = null, inside = false;
    if (b && b.x !== undefined && shownBoxes.includes(b) && c && c.box === b) {
      const last = numbers.get(c), out = last && last.filter((x) => x.group === "device").pop();
      const leaving = out && out.kind === "device/egress" && (o === "forwarded" || drawn(s) === c);
      const e = leaving ? c.outer : c.ends ? c.ends[1] : c.inner, far = leaving ? 30 : endFar(between.length);
      p = { x: e.x + e.dx * far, y: e.y + e.dy * far };
      inside = !leaving;
      const other = drawn(s);
      if (other && other !== c) { p = { x: other.inner.x + other.inner.dx * 26, y: other.inner.y + other.inner.dy * 26 }; }
      hop = bend(e, { x: p.x, y: p.y, dx: -e.dx, dy: -e.dy });
    } else if (b && shownBoxes.includes(b)) {
      p = { ...b.mid };
      inside = true;
      if (c) hop = bend(c.outer, { x: p.x, y: p.y, dx: -c.outer.dx, dy: -c.outer.dy });
    } else if (c) {
      p = { x: c.outer.x + c.outer.dx * 28, y: c.outer.y + c.outer.dy * 28 };
      hop = bend(c.outer, { x: p.x, y: p.y, dx: -c.outer.dx, dy: -c.outer.dy });
    } else return;
    p.x = Math.max(14, p.x);
    if (hop) { if (whole) whole += "L" + hop.d.slice(1).split("C")[0]; walk(hop, between, o === "dropped" ? " last" : "", false); if (o === "dropped") whole += hop.d; }
    const sign = { dropped: "M-5 -5L5 5M5 -5L-5 5", delivered: "M-6 0L-2 5L6 -5", forwarded: "M-5 0L5 0M1 -4L5 0L1 4", open: "M-3.5 -3Q0 -8 3.5 -3Q3 0 0 1.5M0 6L0 6.2" }[o] || "M-5 0L5 0";
    const r = o === "dropped" ? 14 : 11, label = o === "dropped" ? cut(S[j.x || 0] || o, 24) : o, half = label.length * 4.2;
    const at = down && inside ? { x: p.x + r + 7 + half, y: p.y + 4 } : { x: Math.max(half, Math.min(room - half, p.x)), y: inside ? b.y + b.h + 15 : p.y + r + 14 };
    top.append(svg("g", { class: "stop num-end " + o, "data-no": s.no }, svg("title", {}, s.what),
      svg("g", { transform: "translate(" + p.x + " " + p.y + ")" }, svg("circle", { r }), svg("path", { d: sign })),
      svg("text", at, label)));
  }

  for (const { chip, between } of trails.values())
    if (chip && between.length) numbers.set(chip, [...(numbers.get(chip) || []), ...between].sort((x, y) => x.no - y.no));
  for (const b of shownBoxes) for (const c of b.chips.values()) {
    if (!c.at) continue;
    const ns = numbers.get(c) || [], text = ns.length === 0 ? "" : ns.length < 3 ? ns.map((s) => s.no).join("·") : ns[0].no + "–" + ns[ns.length - 1].no;
    const nw = text ? Math.max(18, 8 + 6.2 * text.length) : 0;
    const tips = [b.name + "/" + c.dev].concat(c.known ? [[c.known.kind, c.known.mac, c.known.mtu && "MTU " + c.known.mtu].filter(Boolean).join(", "), ...(c.known.addrs || [])] : []);
    chips.append(svg("g", { class: "chip" + (used.has(c) ? " on" : "") }, svg("title", {}, tips.filter(Boolean).join("\n")),
      svg("rect", { x: c.at.x, y: c.at.y, width: c.at.w, height: chipH, rx: 5 }),
      svg("text", { x: c.at.x + 7, y: c.at.y + 16 }, cut(c.dev, Math.max(3, Math.floor((c.at.w - 10 - nw) / 6.7))))));
    if (text) {
      const g = svg("g", { class: "num", "data-no": ns.map((s) => s.no).join(" ") }, svg("title", {}, ns.map((s) => s.no + "  " + s.what).join("\n")),
        svg("rect", { x: c.at.x + c.at.w - nw - 3, y: c.at.y + 3, width: nw, height: 18, rx: 9 }), svg("text", { x: c.at.x + c.at.w - nw / 2 - 3, y: c.at.y + 15.6 }, text));
      g.addEventListener("mouseenter", () => ns.forEach((s) => heat(s.no)));
      g.addEventListener("mouseleave", () => heat(0));
      chips.append(g);
    }
  }
  const ghost = whole ? svg("circle", { class: "ghost", r: 6 }, svg("animateMotion", { path: smooth(whole), dur: "4s", repeatCount: "indefinite", calcMode: "linear" })) : "";
  root.append(ways, chips, ghost, top);
}

// smooth joins the curves of a way: one path without jumps.
function smooth(d) {
  let first = true;
  return d.replace(/M(\S+ [^CL]+)/g, (m, at) => { if (first) { first = false; return m; } return "L" + at; });
}

// ---- begin ----

drawOutcomes();
const asked = decodeURIComponent(location.hash.slice(1));
selected = journeys.find((j) => j.i === asked) || null;
if (!selected && flows.length) { // what died is what one came for
  const f = flows.find((f) => f.bad) || flows[0];
  selected = best({ list: f.all });
}
refilter();
list.focus({ preventScroll: true });
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; show(); } drawRows(false); });
document.documentElement.dataset.drawn = Math.round(performance.now()); // ms since the page was asked for
addEventListener("hashchange", () => {
  const j = journeys.find((j) => j.i === decodeURIComponent(location.hash.slice(1)));
  if (j && j !== selected) { selected = j; only = ""; words = []; $("filter").value = ""; drawOutcomes(); refilter(); }
});
})();

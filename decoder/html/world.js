// SPDX-License-Identifier: Apache-2.0

// The page draws itself from two pieces of JSON. What they say came from a
// recording and is foreign: it becomes text nodes and attributes, never HTML.
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

const boxes = world.boxes.map((b, i) => ({ n: i, name: b.name, node: b.node || "", known: b.devices, chips: new Map(), layer: 0 }));
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

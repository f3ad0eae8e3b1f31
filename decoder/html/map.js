// SPDX-License-Identifier: Apache-2.0

// The picture: where the boxes and their devices are.

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
    const c = boxes[s.box].chips.get(s.dev);
    if (c) used.add(c), keep.add(c);
  }
  const room = $("map").clientWidth - 26;
  const nodes = new Set([...ours].filter((n) => n >= 0).map((n) => boxes[n].node)); // on its way
  let shownBoxes = boxes.filter((b) => boxes.length <= crowd && nodes.has(b.node) || ours.has(b.n));
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
  for (const f of plan.frames)
    root.append(svg("g", { class: "node" }, svg("title", {}, "node " + f.node), svg("rect", { x: f.x, y: f.y, width: f.w, height: f.h, rx: 12 }),
      svg("text", { x: f.x + 12, y: f.y + 16 }, cut("node " + f.node, Math.floor((f.w - 16) / 6.4)))));
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

// framed lays nodes out below each other, each in a frame if the recording has
// several. lay gives the size of a list of boxes, laid out from a place on.
function framed(list, lay, pad) {
  const nodes = [...new Set(list.map((b) => b.node))];
  if (world.nodes.length < 2) return { ...lay(list, 0, 0), frames: [] };
  const frames = [], top = 20;
  let y = 4, w = 0;
  for (const node of nodes) {
    const p = lay(list.filter((b) => b.node === node), pad, y + top);
    frames.push({ node, x: 2, y, w: p.w + 2 * pad - 4, h: p.h + top });
    w = Math.max(w, p.w + 2 * pad);
    y += p.h + top + 16;
  }
  for (const f of frames) f.w = w - 4;
  return { w, h: y, frames };
}

const across = (list, keep, tail) => framed(list, (some, x, y) => layAcross(some, keep, tail, list.length < boxes.length, x, y), 10);
const along = (list, keep, width, tail) => framed(list, (some, x, y) => layAlong(some, keep, width - 2 * x, tail, x, y), 8);

// layAcross lays boxes out from left to right.
function layAcross(list, keep, tail, few, left, top) {
  const gapX = 44, gapY = 20, edge = 12, stick = 10;
  let x = left + edge + stick, height = 0;
  const columns = layersOf(list).map((column) => {
    let w = 0, h = -gapY;
    for (const b of column) {
      const s = b.sides = pick(b, keep, few);
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
    let y = top + edge + (height - h) / 2;
    for (const b of column) {
      b.x = x; b.y = y; b.w = w;
      const rows = Math.max(b.sides.a.length, b.sides.b.length, 1);
      for (const side of ["a", "b"]) {
        const list = b.sides[side], w = wide(list), from = b.y + 34 + (rows - list.length) * (chipH + 12) / 2;
        list.forEach((c, i) => setChip(c, side === "a" ? b.x - stick : b.x + b.w - w + stick, from + i * (chipH + 12), w, side, false));
      }
      const from = b.x + (b.sides.a.length ? wide(b.sides.a) - stick : 0), to = b.x + b.w - (b.sides.b.length ? wide(b.sides.b) - stick : 0);
      const mw = wide(b.sides.mid) + 14;
      b.sides.mid.forEach((c, i) => setChip(c, (from + to - mw) / 2, b.y + 34 + rows * (chipH + 12) + 4 + i * (chipH + 14), mw, "mid", false));
      b.mid = { x: b.x + b.w / 2, y: b.y + 34 + rows * (chipH + 12) / 2 };
      y += b.h + gapY;
    }
    x += w + gapX + 2 * stick;
  }
  return { w: x - left - gapX - stick + edge, h: height + 2 * edge + 10 };
}

// layAlong lays them out from the top down, for narrow windows.
function layAlong(list, keep, width, tail, left, top) {
  const gapY = 44, edge = 6;
  let y = top + edge;
  for (const row of layersOf(list)) {
    const w = (width - 2 * edge - (row.length - 1) * 8) / row.length;
    let tallest = 0;
    row.forEach((b, i) => {
      b.sides = pick(b, keep, true);
      b.more = "";
      b.x = left + edge + i * (w + 8); b.y = y; b.w = w;
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
  return { w: width, h: y - top - gapY + 22 };
}

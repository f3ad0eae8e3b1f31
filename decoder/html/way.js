// SPDX-License-Identifier: Apache-2.0

// The selected packet's way through the picture.

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
    if (cls !== " copy") whole += curve.d;
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
    g.addEventListener("mouseenter", () => heat(...list.map((s) => s.no)));
    g.addEventListener("mouseleave", () => heat());
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
        const curve = bend(a, b);
        walk(curve, state.between, copy, true);
        if (state.carry && !same) {
          top.append(svg("g", { class: "mark" }, svg("text", { x: curve.at(0.5).x, y: curve.at(0.5).y + (down ? 4 : -9) }, state.carry)));
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
      finish(s, ended, ended && ended !== trails.get(0));
      if (ended) ended.between = [];
    }
  }

  function finish(s, state, copy) {
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
    if (hop) walk(hop, between, o === "dropped" ? " last" : copy ? " copy" : "", false);
    const sign = { dropped: "M-5 -5L5 5M5 -5L-5 5", delivered: "M-6 0L-2 5L6 -5", forwarded: "M-5 0L5 0M1 -4L5 0L1 4", open: "M-3.5 -3Q0 -8 3.5 -3Q3 0 0 1.5M0 6L0 6.2" }[o] || "M-5 0L5 0";
    const r = o === "dropped" ? 14 : 11, label = o === "dropped" ? cut(S[j.x || 0] || o, 24) : o, half = label.length * 4.2;
    const at = down && inside ? { x: p.x + r + 7 + half, y: p.y + 4 } : { x: Math.max(half, Math.min(room - half, p.x)), y: inside ? b.y + b.h + 15 : p.y + r + 14 };
    top.append(svg("g", { class: "stop " + o, "data-no": s.no }, svg("title", {}, s.what),
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
      g.addEventListener("mouseenter", () => heat(...ns.map((s) => s.no)));
      g.addEventListener("mouseleave", () => heat());
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

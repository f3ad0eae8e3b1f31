// SPDX-License-Identifier: Apache-2.0

// The list, of which only what can be seen is made.

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
    el("div", {}, el("small", { class: "grow" }, j.c + (j.n ? " · may miss hops" : "")), el("small", {}, micros(j.d))));
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

// SPDX-License-Identifier: Apache-2.0

// What is shown first.

// asked is the journey that the page's address names.
function asked() {
  let id = location.hash.slice(1);
  try { id = decodeURIComponent(id); } catch { return null; }
  return journeys.find((j) => j.i === id) || null;
}

drawOutcomes();
selected = asked();
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
  const j = asked();
  if (j && j !== selected) { selected = j; only = ""; words = []; $("filter").value = ""; drawOutcomes(); refilter(); }
});

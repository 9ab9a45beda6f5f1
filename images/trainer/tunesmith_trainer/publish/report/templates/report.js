// What the page can do beyond being read: switch its theme, sort its tables, tell what is under the pointer.
// Without this script nothing is missing but that.
"use strict";
(() => {
  const root = document.documentElement;
  const remember = (theme) => { try { localStorage.setItem("tunesmith-theme", theme); } catch { /* private mode */ } };
  try { const kept = localStorage.getItem("tunesmith-theme"); if (kept) root.dataset.theme = kept; } catch { /* as above */ }

  function themeButton() {
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
    const label = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
    button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; remember(root.dataset.theme); label(); });
    system.addEventListener("change", label);
    label();
    button.hidden = false;
  }

  // The folder this file lies in may be named by the digest that the page itself cannot contain.
  function fillDigest() {
    const found = /\/(?:sha256[-:])?([0-9a-f]{64})\/report\.html$/.exec(location.pathname);
    if (found) for (const slot of document.querySelectorAll("[data-digest]")) slot.textContent = found[1];
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.classList.contains("num") ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? (first === "ascending" ? "descending" : "ascending") : first;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        sortRows(table.tBodies[0], column, order === "ascending" ? 1 : -1);
      });
    });
  }

  // Says where a table has more columns than it shows.
  function cues() {
    const boxes = [...document.querySelectorAll(".cue + .scroll")];
    const look = () => {
      for (const box of boxes) {
        const more = box.scrollWidth - box.clientWidth, cue = box.previousElementSibling;
        cue.hidden = more < 2;
        cue.classList.toggle("past", box.scrollLeft > more - 2);
      }
    };
    for (const box of boxes) {
      box.addEventListener("scroll", look, { passive: true });
      box.closest("details")?.addEventListener("toggle", look);
    }
    addEventListener("resize", look);
    look();
  }

  function sortRows(body, column, sign) {
    const value = (row) => row.cells[column].dataset.v;
    const compare = (one, other) => {
      const a = value(one), b = value(other);
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      const x = Number(a), y = Number(b);
      return sign * (a !== "" && b !== "" && !isNaN(x) && !isNaN(y) ? x - y : a.localeCompare(b, undefined, { numeric: true }));
    };
    body.append(...[...body.rows].sort(compare));
  }

  // Tooltips: the titles of shapes, at once and for fingers too.
  function tooltips() {
    const tip = document.getElementById("tip");
    for (const title of document.querySelectorAll("svg title")) {
      title.parentNode.dataset.tip = title.textContent;
      title.remove();
    }
    const show = (event) => {
      const shape = event.target.closest && event.target.closest("[data-tip]");
      tip.hidden = !shape;
      if (!shape) return;
      tip.textContent = shape.dataset.tip;
      const box = tip.getBoundingClientRect();
      const x = Math.min(Math.max(event.clientX - box.width / 2, 8), innerWidth - box.width - 8);
      const y = event.clientY - box.height - 14 < 8 ? event.clientY + 18 : event.clientY - box.height - 14;
      tip.style.transform = `translate(${x}px, ${y}px)`;
    };
    document.addEventListener("pointermove", show);
    document.addEventListener("pointerdown", show);
    document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });
  }

  // A trial is lit up everywhere it appears: in its row, its marks, its bars and its lines.
  let lit = null;
  function light(id) {
    if (id === lit) return;
    for (const shape of document.querySelectorAll("[data-trial].on")) shape.classList.remove("on");
    lit = id;
    if (id === null) return;
    for (const shape of document.querySelectorAll(`[data-trial="${CSS.escape(id)}"]`)) {
      shape.classList.add("on");
      if (shape.matches(".parallel path")) shape.parentNode.insertBefore(shape, shape.parentNode.querySelector(".plate, .tick, .halo"));
    }
    readOut(id);
  }

  function readOut(id) {
    const row = document.querySelector(`tr[data-trial="${CSS.escape(id)}"]`);
    const line = document.getElementById("readout");
    if (!row || !line) return;
    const heads = row.closest("table").tHead.rows[0].cells;
    line.textContent = [...row.cells].map((cell, at) => {
      const text = cell.querySelector("bdi").textContent;
      return at < 2 ? text : `${heads[at].textContent.trim()} ${text}`;
    }).join(" · ");
  }

  function nearestLine(chart) {
    const lines = [...chart.querySelectorAll("path.trial")].map((line) => ({
      id: line.dataset.trial,
      points: line.getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number)),
    }));
    const distance = (points, x, y) => {
      let least = Infinity;
      for (let at = 1; at < points.length; at++) {
        const [ax, ay] = points[at - 1], [bx, by] = points[at];
        const dx = bx - ax, dy = by - ay;
        const along = Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1), 0), 1);
        least = Math.min(least, Math.hypot(ax + along * dx - x, ay + along * dy - y));
      }
      return least;
    };
    const point = (event) => {
      const box = chart.getBoundingClientRect(), scale = chart.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = null, least = 24;
      for (const line of lines) { const away = distance(line.points, x, y); if (away < least) { least = away; best = line.id; } }
      light(best);
    };
    chart.addEventListener("pointermove", point);
    chart.addEventListener("pointerdown", point);
  }

  function highlighting() {
    const over = (event) => {
      const shape = event.target.closest && event.target.closest("[data-trial]");
      if (shape && !shape.closest(".parallel")) light(shape.dataset.trial);
    };
    document.addEventListener("pointerover", over);
    document.addEventListener("pointerdown", over);
    const line = document.getElementById("readout");
    const chart = document.querySelector(".parallel");
    if (!line || !chart) return;
    line.hidden = false;
    line.textContent = "Point at a line, or tap it, to see which trial it is.";
    for (const each of document.querySelectorAll(".parallel")) nearestLine(each);
  }

  document.addEventListener("DOMContentLoaded", () => {
    themeButton();
    fillDigest();
    for (const table of document.querySelectorAll("table.sortable")) sortable(table);
    cues();
    tooltips();
    highlighting();
  });
})();

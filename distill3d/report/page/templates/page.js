"use strict";
// Shows, hides and sorts what Python computed; it computes no result. No library but Plotly, no network.
(() => {
  const $ = (query, root = document) => [...root.querySelectorAll(query)];
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const { live, every } = document.body.dataset;
  const status = document.getElementById("status");
  const hidden = new Set(); // arms

  // Colors: charts name custom properties, which have a value for light and one for dark.
  const resolve = (node, style) => {
    if (typeof node === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(node);
      return name ? style.getPropertyValue(name[1]).trim() : node;
    }
    if (Array.isArray(node)) return node.map((inner) => resolve(inner, style));
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([key, inner]) => [key, resolve(inner, style)]));
    }
    return node;
  };
  const config = { responsive: true, displaylogo: false, displayModeBar: false, doubleClickDelay: 400 };
  const drawn = new Set();
  const draw = (box) => {
    if (!box.isConnected || !box.offsetParent) return; // what is not shown has no width
    const figure = resolve(figures[box.dataset.figure], getComputedStyle(document.documentElement));
    for (const trace of figure.data) if (hidden.has(trace.meta)) trace.visible = "legendonly";
    drawn.add(box);
    Plotly.react(box, figure.data, figure.layout, config);
  };
  const drawAll = () => $(".chart").filter((box) => !drawn.has(box)).forEach(draw);
  const redraw = () => drawn.forEach(draw);
  const watcher = new IntersectionObserver(
    (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => { watcher.unobserve(e.target); draw(e.target); }),
    { rootMargin: "500px" },
  );
  addEventListener("beforeprint", () => { $("details").forEach((d) => { d.open = true; }); drawAll(); });

  // Arms: one row of buttons for all charts, since Plotly's legends cannot be reached by keyboard.
  const showArms = () => {
    $(".key").forEach((key) => key.setAttribute("aria-pressed", String(!hidden.has(key.dataset.arm))));
    redraw();
  };
  $(".key").forEach((key) => key.addEventListener("click", () => {
    const arm = key.dataset.arm;
    if (!hidden.delete(arm)) hidden.add(arm);
    showArms();
  }));

  // Theme: the reader's choice wins over the system's.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const store = { // a browser may refuse storage to a file
    get: (key) => { try { return sessionStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* the page works without */ } },
  };
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const themed = () => { button.setAttribute("aria-pressed", String(isDark())); redraw(); };
  const setTheme = (theme) => { document.documentElement.dataset.theme = theme; store.set("theme", theme); themed(); };
  button.addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  system.addEventListener("change", themed);

  // Tables.
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  const sort = (table, column, direction) => {
    const sign = direction === "descending" ? -1 : 1;
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b))); // no value: last
    table.tBodies[0].append(...rows.map(([, row]) => row));
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", place === column ? direction : "none");
    });
  };
  $("th .sort").forEach((sorter) => sorter.addEventListener("click", () => {
    const head = sorter.closest("th");
    const first = head.classList.contains("num") ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const direction = head.getAttribute("aria-sort") === first ? other : first;
    sort(head.closest("table"), head.cellIndex, direction);
    status.textContent = `Sorted by ${sorter.textContent.trim()}, ${direction}`;
  }));
  const filter = (input) => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const box = document.getElementById(input.dataset.filter);
    const rows = [...(box.tBodies ? box.tBodies[0].rows : box.children)];
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    });
    const left = rows.filter((row) => !row.hidden).length;
    $(`[data-count="${input.dataset.filter}"]`)[0].textContent = words.length ? `${left} of ${rows.length} ${box.tBodies ? "rows" : "runs"}` : "";
  };
  $("[data-filter]").forEach((input) => input.addEventListener("input", () => filter(input)));
  const pick = (select) => {
    $(`[data-panel="${select.dataset.pick}"]`).forEach((panel) => {
      panel.hidden = panel.dataset.value !== select.value;
      $(".chart", panel).forEach(draw);
    });
  };
  $("[data-pick]").forEach((select) => select.addEventListener("change", () => pick(select)));

  const hint = (box) => box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  $(".scroll").forEach((box) => {
    new ResizeObserver(() => hint(box)).observe(box);
    box.addEventListener("scroll", () => hint(box), { passive: true });
  });

  // Pictures: a dialog gives focus back to what opened it.
  const dialog = document.getElementById("zoom");
  $("button.zoom").forEach((opener) => opener.addEventListener("click", () => {
    const [small] = $("img", opener), [large] = $("img", dialog);
    large.src = small.src;
    large.alt = small.alt;
    large.style.setProperty("--ratio", small.getAttribute("width") / small.getAttribute("height"));
    document.getElementById("zoom-title").textContent = opener.dataset.title;
    $(".caption", dialog)[0].textContent = opener.dataset.note;
    dialog.showModal();
  }));
  $("dialog").forEach((box) => box.addEventListener("click", (event) => { if (event.target === box) box.close(); }));

  // Trees: read when they are asked for.
  const turning = document.getElementById("turn"), turned = turnable($(".view", turning)[0]);
  $("button.turn").forEach((opener) => opener.addEventListener("click", () => {
    const { walls, cards } = JSON.parse(document.getElementById("scenes").textContent)[opener.dataset.case];
    document.getElementById("turn-title").textContent = opener.dataset.title;
    turning.showModal();
    turned.show(cards[opener.dataset.card], walls);
  }));

  // Commands.
  const copied = (text) => {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy"); // the only way where a file has no clipboard of its own
    area.remove();
    return done;
  };
  $("button.copy").forEach((copier) => copier.addEventListener("click", async () => {
    const text = $("code", copier.parentElement)[0].textContent;
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch { done = copied(text); }
    copier.focus();
    copier.textContent = done ? "Copied" : "Not allowed";
    status.textContent = done ? "The command was copied" : "The browser did not allow copying";
    setTimeout(() => { copier.textContent = "Copy"; }, 1600);
  }));

  // Dashboard: what the reader set survives a reload.
  const remember = () => store.set("view", JSON.stringify({
    y: scrollY,
    filters: $("[data-filter]").map((input) => [input.id, input.value]),
    picks: $("[data-pick]").map((select) => [select.id, select.value]),
    sorts: $("table[id]").flatMap((table) => [...(table.tHead?.rows[0].cells ?? [])]
      .filter((head) => /ing$/.test(head.getAttribute("aria-sort") ?? ""))
      .map((head) => [table.id, head.cellIndex, head.getAttribute("aria-sort")])),
    hidden: [...hidden],
    open: $("details").map((d) => d.open),
  }));
  const recall = () => {
    const view = JSON.parse(store.get("view") ?? "null");
    if (!view) return;
    const set = (id, value, act) => {
      const field = document.getElementById(id);
      if (field) { field.value = value; act(field); }
    };
    view.sorts.forEach(([id, column, direction]) => {
      const table = document.getElementById(id);
      if (table?.tHead.rows[0].cells[column]) sort(table, column, direction);
    });
    view.filters.forEach(([id, value]) => set(id, value, filter));
    view.picks.forEach(([id, value]) => set(id, value, pick));
    const details = $("details");
    if (details.length === view.open.length) details.forEach((d, place) => { d.open = view.open[place]; });
    view.hidden.forEach((arm) => hidden.add(arm));
    showArms();
    scrollTo({ top: view.y, behavior: "instant" });
  };
  const poll = async () => {
    try {
      const answer = await fetch("state", { cache: "no-store" });
      if (answer.ok && (await answer.text()) !== live && !$("dialog[open]").length) {
        remember();
        location.reload();
        return;
      }
    } catch { status.textContent = "The dashboard does not answer"; }
    setTimeout(poll, Number(every));
  };

  document.documentElement.dataset.theme = store.get("theme") ?? (system.matches ? "dark" : "light");
  if (!store.get("theme")) delete document.documentElement.dataset.theme;
  themed();
  if (live) { recall(); setTimeout(poll, Number(every)); }
  $(".chart").forEach((box) => watcher.observe(box));
  $("details").forEach((d) => d.addEventListener("toggle", () => $(".chart", d).forEach(draw)));
  (window.requestIdleCallback ?? setTimeout)(function later() { // the rest, one by one, so that the page stays quick
    const next = $(".chart").find((box) => !drawn.has(box) && box.offsetParent);
    if (!next) { document.documentElement.dataset.ready = "yes"; return; }
    draw(next);
    (window.requestIdleCallback ?? setTimeout)(later);
  });
})();

"use strict";
// Turns lines in space and the walls behind them on a 2D canvas, what is far drawn first. No WebGL, no library, no network.
const turnable = (root) => {
  const canvas = root.querySelector("canvas");
  const pen = canvas.getContext("2d");
  const $ = (query) => [...root.querySelectorAll(query)];
  const walls = new Map($("[data-wall]").map((image) => [image.dataset.wall, image]));
  const [SLABS, MANY, START, BACK, TEXT] = [24, 5000, { yaw: 0.5, pitch: 0.5 }, "#07090c", "#c8ced6"];
  const hidden = new Set(); // gold, pred, image, marks
  const view = { yaw: 0, pitch: 0, zoom: 1, x: 0, y: 0 };
  let scene = null, waiting = 0, still = 0;

  // Reading: places are whole numbers of steps from an origin, x y z; here they are um from the middle of the image.
  const places = (text, { origin, step, middle }) => {
    const whole = new Uint16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
    return Float32Array.from(whole, (value, k) => value * step + origin[k % 3] - middle[k % 3]);
  };
  const shade = (color, far) => { // by slab; what is far is darker
    const parts = [1, 3, 5].map((at) => Math.round(parseInt(color.slice(at, at + 2), 16) * (1 - 0.45 * far)));
    return `rgb(${parts.join(" ")})`;
  };
  const read = (data) => {
    const [low, high] = data.box;
    const half = low.map((value, a) => (high[a] - value) / 2);
    const middle = low.map((value, a) => value + half[a]);
    const parts = data.parts.map((part) => ({
      ...part,
      shades: Array.from({ length: SLABS }, (_, slab) => shade(part.color, 1 - slab / (SLABS - 1))),
      ...Object.fromEntries(["lines", "tips", "branches"].map((k) => [k, places(part[k], { ...data, middle })])),
    }));
    const many = parts.reduce((sum, part) => sum + part.lines.length / 6, 0) > MANY;
    return { half, parts, many, across: 2 * Math.hypot(...half) || 1 };
  };

  // Projecting: yaw about y, then pitch about the screen's horizontal; parallel, so a scale bar holds everywhere.
  const axes = () => {
    const [c, s, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    return [[c, 0, s], [sp * s, cp, -sp * c], [-cp * s, sp, cp * c]]; // right, down, away
  };
  const perUm = () => (view.zoom * Math.min(canvas.clientWidth, canvas.clientHeight)) / scene.across;
  const projector = () => {
    const [right, down, away] = axes();
    const [k, x, y] = [perUm(), canvas.clientWidth / 2 + view.x, canvas.clientHeight / 2 + view.y];
    const dot = (row, p, at) => row[0] * p[at] + row[1] * p[at + 1] + row[2] * p[at + 2];
    const flat = (p, at = 0) => [x + k * dot(right, p, at), y + k * dot(down, p, at)];
    const depth = (p, at = 0) => dot(away, p, at);
    return { flat, depth, away };
  };
  const fit = () => {
    const [right, down] = axes();
    const wide = (row) => 2 * row.reduce((sum, value, a) => sum + Math.abs(value) * scene.half[a], 0) || 1;
    const room = Math.min((canvas.clientWidth - 140) / wide(right), (canvas.clientHeight - 90) / wide(down));
    Object.assign(view, { x: 0, y: 0, zoom: 1 });
    view.zoom = Math.max(room, 1e-6) / perUm();
  };
  const look = (yaw, pitch) => { Object.assign(view, { yaw, pitch }); fit(); later(); };

  // Drawing.
  const WALLS = { z: [0, 1], y: [0, 2], x: [1, 2] }; // the axes that run along columns and rows of its picture
  const drawWalls = ({ flat, away }) => {
    const { half } = scene;
    Object.entries(WALLS).forEach(([name, [column, row]]) => {
      const [image, across] = [walls.get(name), 3 - column - row];
      const corner = half.map((value) => -value);
      corner[across] = Math.sign(away[across] || 1) * half[across];
      const to = (axis) => flat(corner.map((value, a) => (a === axis ? half[a] : value)));
      const [at, u, v] = [flat(corner), to(column), to(row)];
      pen.save();
      pen.transform(u[0] - at[0], u[1] - at[1], v[0] - at[0], v[1] - at[1], at[0], at[1]);
      if (image.naturalWidth && !hidden.has("image")) {
        pen.globalAlpha = 0.8;
        pen.drawImage(image, 0, 0, 1, 1);
      }
      pen.beginPath();
      pen.rect(0, 0, 1, 1);
      pen.restore();
      pen.strokeStyle = "#4a535f";
      pen.lineWidth = 1;
      pen.stroke();
    });
  };
  const drawAxes = ({ flat, away }) => {
    const { half } = scene;
    pen.fillStyle = TEXT;
    half.forEach((value, axis) => {
      if (Math.abs(away[axis]) > 0.97) return; // seen end on
      const [b, c] = [0, 1, 2].filter((other) => other !== axis);
      const middles = [[1, -1], [-1, 1]].map(([one, two]) => { // edges that only one wall has, of which the lower is free
        const place = [0, 0, 0];
        place[b] = one * Math.sign(away[b] || 1) * half[b];
        place[c] = two * Math.sign(away[c] || 1) * half[c];
        return flat(place);
      });
      const [x, y] = middles.sort((p, q) => q[1] - p[1])[0];
      const middle = flat([0, 0, 0]);
      const [dx, dy] = [x - middle[0], y - middle[1]];
      const long = Math.hypot(dx, dy) || 1;
      const text = `${"xyz"[axis]} ${Number((2 * value).toPrecision(3))} µm`;
      const [room, aside] = [pen.measureText(text).width, (Math.abs(dx) > 30) * Math.sign(dx)];
      const left = x + (10 * dx) / long + ((aside - 1) * room) / 2;
      pen.fillText(text, Math.min(Math.max(left, 4), canvas.clientWidth - room - 4), y + (14 * dy) / long + 4);
    });
  };
  const drawScale = () => {
    const k = perUm();
    const power = 10 ** Math.floor(Math.log10(130 / k));
    const um = [5, 2, 1].find((n) => n * power * k <= 130) * power;
    const [x, y] = [14, canvas.clientHeight - 14];
    pen.fillStyle = pen.strokeStyle = TEXT;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(x + um * k, y);
    pen.stroke();
    pen.fillText(`${Number(um.toPrecision(1))} µm`, x, y - 7);
  };
  const sorted = (points, size, { flat, depth }) => { // slab -> flat coordinates, the farthest slab first
    const slabs = Array.from({ length: SLABS }, () => []);
    for (let at = 0; at < points.length; at += size) {
      const far = (depth(points, at) + depth(points, at + size - 3)) / 2;
      const slab = Math.min(SLABS - 1, Math.max(0, Math.floor((0.5 - far / scene.across) * SLABS)));
      slabs[slab].push(...flat(points, at));
      if (size === 6) slabs[slab].push(...flat(points, at + 3));
    }
    return slabs;
  };
  const stroke = (ends, color, width) => {
    pen.beginPath();
    for (let at = 0; at < ends.length; at += 4) {
      pen.moveTo(ends[at], ends[at + 1]);
      pen.lineTo(ends[at + 2] + 0.01, ends[at + 3]); // what is seen end on is a dot
    }
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke();
  };
  const mark = (places, color, round) => {
    pen.beginPath();
    for (let at = 0; at < places.length; at += 2) {
      const [x, y] = [places[at], places[at + 1]];
      pen.moveTo(x + 2.7, y);
      if (round) pen.arc(x, y, 2.7, 0, 7);
      else pen.rect(x - 2.7, y - 2.7, 5.4, 5.4);
    }
    pen.fillStyle = color;
    pen.strokeStyle = "#000";
    pen.lineWidth = 1.2;
    pen.fill();
    pen.stroke();
  };
  const draw = (quick) => {
    waiting = 0;
    const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, Math.min(devicePixelRatio || 1, 2)];
    if (!scene || !width) return;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = BACK;
    pen.fillRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    const how = projector();
    drawWalls(how);
    const shown = scene.parts.filter((part) => !hidden.has(part.side)).map((part) => ({
      ...part,
      lines: sorted(part.lines, 6, how),
      tips: hidden.has("marks") ? [] : sorted(part.tips, 3, how),
      branches: hidden.has("marks") ? [] : sorted(part.branches, 3, how),
    }));
    for (let slab = 0; slab < SLABS; slab++) {
      pen.lineCap = "butt";
      if (!quick) shown.forEach((part) => stroke(part.lines[slab], "#000", part.width + 1.4)); // parts colors from neurites
      if (!quick) pen.lineCap = "round";
      shown.forEach((part) => stroke(part.lines[slab], part.shades[slab], quick ? 1 : part.width));
      shown.forEach((part) => {
        mark(part.tips[slab] ?? [], part.shades[slab], true);
        mark(part.branches[slab] ?? [], part.shades[slab], false);
      });
    }
    drawAxes(how);
    drawScale();
  };
  const later = () => { // many lines are thin while they move
    waiting ||= requestAnimationFrame(() => draw(scene?.many));
    clearTimeout(still);
    if (scene?.many) still = setTimeout(() => draw(false), 200);
  };

  // Turning, moving, zooming.
  const turn = (dx, dy) => {
    view.yaw -= dx;
    view.pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, view.pitch + dy));
    later();
  };
  const move = (dx, dy) => { view.x += dx; view.y += dy; later(); };
  const zoom = (factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => { // what is at x y stays there
    const by = Math.min(400, Math.max(0.05, view.zoom * factor)) / view.zoom;
    const [dx, dy] = [x - canvas.clientWidth / 2 - view.x, y - canvas.clientHeight / 2 - view.y];
    view.zoom *= by;
    move(dx * (1 - by), dy * (1 - by));
  };
  const reset = () => look(START.yaw, START.pitch);
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (!scene || event.ctrlKey || event.metaKey || event.altKey) return;
    const [dx, dy] = ARROWS[event.key] ?? [0, 0];
    if (dx || dy) event.shiftKey ? move(30 * dx, 30 * dy) : turn(dx * Math.PI / 24, dy * Math.PI / 24);
    else if (event.key === "+" || event.key === "=") zoom(1.25);
    else if (event.key === "-" || event.key === "_") zoom(0.8);
    else if (event.key === "0") reset();
    else return;
    event.preventDefault();
  });
  const down = new Map(); // pointers
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, [event.offsetX, event.offsetY]);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    if (!before || !scene) return;
    const now = [event.offsetX, event.offsetY];
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
    down.set(event.pointerId, now);
    if (other) { // two fingers: each moves by half, and their distance zooms
      const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      move(dx / 2, dy / 2);
      zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (event.shiftKey || event.buttons & 6) move(dx, dy);
    else turn(dx / 160, dy / 160);
  });
  ["pointerup", "pointercancel"].forEach((kind) => canvas.addEventListener(kind, (event) => down.delete(event.pointerId)));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => scene && reset());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (scene) zoom(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 240), event.offsetX, event.offsetY);
  }, { passive: false });
  const VIEWS = { z: [0, 0], y: [0, -Math.PI / 2], x: [Math.PI / 2, 0] };
  $("[data-from]").forEach((button) => button.addEventListener("click", () => look(...VIEWS[button.dataset.from])));
  $("[data-zoom]").forEach((button) => button.addEventListener("click", () => zoom(Number(button.dataset.zoom))));
  $("[data-reset]").forEach((button) => button.addEventListener("click", reset));
  const toggles = $("[data-hides]");
  toggles.forEach((button) => button.addEventListener("click", () => {
    const what = button.dataset.hides;
    if (!hidden.delete(what)) hidden.add(what);
    button.setAttribute("aria-pressed", String(!hidden.has(what)));
    later();
  }));

  const legend = () => {
    const items = [...scene.parts].reverse().map((part) => { // errors first
      const [item, swatch] = [document.createElement("li"), document.createElement("span")];
      swatch.className = "swatch";
      swatch.style.background = part.color;
      item.append(swatch, `${part.name} `, Object.assign(document.createElement("span"), {
        className: "unit",
        textContent: `${part.um.toLocaleString("en", { maximumFractionDigits: 0 })} µm`,
      }));
      return item;
    });
    root.querySelector(".view-legend").replaceChildren(...items);
  };
  // Shows a scene; the pictures of its walls are in the page already, or given: z, y, x -> picture.
  const show = async (data, pictures) => {
    if (!pen) return;
    if (pictures) walls.forEach((image, name) => { image.removeAttribute("src"); if (pictures[name]) image.src = pictures[name]; });
    await Promise.all([...walls.values()].filter((image) => image.getAttribute("src")).map((image) => image.decode()));
    scene = read(data);
    root.classList.add("live");
    toggles.filter((button) => ["gold", "pred"].includes(button.dataset.hides)).forEach((button) => {
      button.hidden = !scene.parts.some((part) => part.side === button.dataset.hides);
    });
    legend();
    reset();
    draw(false);
  };
  if (pen) new ResizeObserver(later).observe(canvas);
  return { show };
};

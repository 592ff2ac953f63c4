// The report's slice viewer: T2, each b-value and ADC, linked by slice, place and zoom.
// It reads the data within the page (viewer.py wrote it) and asks nothing of the network.
"use strict";
(async () => {
  const part = (name) => document.getElementById(`viewer-${name}`);
  if (!part("data") || !("DecompressionStream" in window)) return; // the still pictures remain
  const study = JSON.parse(part("data").textContent);
  const [width, height, depth] = study.size;
  const plane = width * height;
  const tall = (height * study.spacing_mm[1]) / (width * study.spacing_mm[0]); // height by width of a panel
  const view = { slice: study.start, zoom: 1, x: 0.5, y: 0.5, overlay: true, outlines: true, opacity: study.opacity, cursor: null };

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function stepsOf(text) { // differences along rows, low bytes before high ones
    const bytes = await inflated(text);
    const count = plane * depth;
    const steps = new Uint16Array(count);
    for (let i = 0; i < count; i++) {
      steps[i] = bytes[i] + 256 * bytes[count + i] + (i % width ? steps[i - 1] : 0); // wraps at 65536
    }
    return steps;
  }

  const saliency = await Promise.all(study.saliency.map(async (text) => new Int8Array((await inflated(text)).buffer)));
  const labels = study.labels ? await inflated(study.labels) : null; // the number of a candidate, or 0
  const yellow = `rgb(${study.outline.map((one) => Math.round(255 * one)).join()})`;
  const panels = await Promise.all(study.layers.map(makePanel));

  async function makePanel(layer) {
    const steps = await stepsOf(layer.data);
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const [title, place, value] = ["strong", "span", "output"].map((tag) => document.createElement(tag));
    const caption = document.createElement("figcaption");
    title.textContent = layer.name;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", layer.name);
    caption.append(title, " ", value, document.createElement("br"), place);
    figure.append(canvas, caption);
    part("panels").append(figure);
    const slice = new OffscreenCanvas(width, height);
    const panel = { layer, steps, canvas, slice, place, value, window: [...layer.window] };
    listen(panel);
    return panel;
  }

  // Which part of the slice is seen, in voxels: [left, top, width, height].
  function seen() {
    const [w, h] = [width / view.zoom, height / view.zoom];
    view.x = Math.min(Math.max(view.x, w / 2 / width), 1 - w / 2 / width);
    view.y = Math.min(Math.max(view.y, h / 2 / height), 1 - h / 2 / height);
    return [view.x * width - w / 2, view.y * height - h / 2, w, h];
  }

  function pixelsOf(panel) {
    const { layer, steps, window: [low, high] } = panel;
    const image = new ImageData(width, height);
    const share = view.overlay ? saliency[layer.path] : null;
    const start = view.slice * plane;
    for (let i = 0; i < plane; i++) {
      const signal = layer.low + layer.step * steps[start + i];
      const grey = 255 * Math.min(Math.max((signal - low) / (high - low), 0), 1);
      const amount = share ? share[start + i] / 127 : 0;
      const above = Math.max(0, (Math.abs(amount) - study.floor) / (1 - study.floor));
      const alpha = view.opacity * Math.sqrt(above);
      const colour = amount < 0 ? study.lowers : study.raises;
      for (let k = 0; k < 3; k++) image.data[4 * i + k] = (1 - alpha) * grey + alpha * 255 * colour[k];
      image.data[4 * i + 3] = 255;
    }
    return image;
  }

  function draw(panel) {
    const { canvas, layer } = panel;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.width * tall);
    panel.slice.getContext("2d").putImageData(pixelsOf(panel), 0, 0);
    const brush = canvas.getContext("2d");
    const [left, top, w, h] = seen();
    brush.imageSmoothingQuality = "high";
    brush.drawImage(panel.slice, left, top, w, h, 0, 0, canvas.width, canvas.height);
    const at = ([x, y]) => [((x + 0.5 - left) / w) * canvas.width, ((y + 0.5 - top) / h) * canvas.height];
    if (labels && view.outlines) drawOutlines(brush, ratio, at);
    drawMarks(brush, canvas, ratio, at);
    panel.place.textContent = layer.images[view.slice] ?? layer.source;
    panel.value.textContent = view.cursor ? valueAt(panel, view.cursor) : "";
  }

  // The sides of voxels where a candidate ends, and its number at the upper right of it.
  function drawOutlines(brush, ratio, at) {
    const label = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : labels[view.slice * plane + y * width + x]);
    const corners = new Map();
    const sides = new Path2D();
    const side = (from, to) => { sides.moveTo(...at(from)); sides.lineTo(...at(to)); };
    for (let y = 0; y <= height; y++) {
      for (let x = 0; x <= width; x++) {
        const number = label(x, y);
        if (number !== label(x - 1, y)) side([x - 0.5, y - 0.5], [x - 0.5, y + 0.5]);
        if (number !== label(x, y - 1)) side([x - 0.5, y - 0.5], [x + 0.5, y - 0.5]);
        const [right, top] = corners.get(number) ?? [x, y];
        if (number) corners.set(number, [Math.max(right, x), Math.min(top, y)]);
      }
    }
    brush.setLineDash([]);
    brush.font = `bold ${12 * ratio}px sans-serif`;
    brush.textAlign = "left";
    brush.fillStyle = yellow;
    for (const [colour, thick] of [["black", 3.5], [yellow, 1.5]]) {
      brush.strokeStyle = colour;
      brush.lineWidth = thick * ratio;
      brush.stroke(sides);
      if (colour === "black") corners.forEach((corner, number) => brush.strokeText(number, ...beside(corner)));
    }
    corners.forEach((corner, number) => brush.fillText(number, ...beside(corner)));
    function beside([x, y]) {
      const [left, top] = at([x + 0.5, y - 0.5]);
      return [left + 3 * ratio, top];
    }
  }

  function valueAt({ layer, steps }, [x, y]) {
    const signal = layer.low + layer.step * steps[view.slice * plane + y * width + x];
    const shown = Math.abs(signal) < 10 ? signal.toPrecision(2) : signal.toFixed(0);
    return `${shown} ${layer.unit}`.trim();
  }

  function drawMarks(brush, canvas, ratio, at) {
    const line = (points, colour, dash = [], thick = 1) => {
      brush.strokeStyle = colour;
      brush.lineWidth = thick * ratio;
      brush.setLineDash(dash.map((one) => one * ratio));
      brush.beginPath();
      points.forEach((point) => brush.lineTo(...point));
      brush.stroke();
    };
    const [[x0, x1], [y0, y1]] = study.field;
    const frame = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]].map(at);
    line(frame, "black");
    line(frame, "white", [1, 3]);
    const size = 12 * ratio;
    const write = (text, x, y, align) => {
      brush.font = `bold ${size}px sans-serif`;
      brush.textAlign = align;
      brush.lineWidth = 3 * ratio;
      brush.setLineDash([]);
      brush.strokeStyle = "black";
      brush.fillStyle = "white";
      brush.strokeText(text, x, y);
      brush.fillText(text, x, y);
    };
    const { width: across, height: down } = canvas;
    write("R", 4 * ratio, down / 2, "left");
    write("L", across - 4 * ratio, down / 2, "right");
    write("A", across / 2, size, "center");
    write("P", across / 2, down - 5 * ratio, "center");
    const end = [across - 8 * ratio, down - 8 * ratio];
    const long = at([study.bar_mm / study.spacing_mm[0], 0])[0] - at([0, 0])[0];
    line([[end[0] - long, end[1]], end], "black", [], 4);
    line([[end[0] - long, end[1]], end], "white", [], 2);
    write(`${study.bar_mm} mm`, end[0], end[1] - 6 * ratio, "right");
    if (!view.cursor) return;
    const [x, y] = at(view.cursor);
    const gap = 6 * ratio;
    for (const points of [[[x - 3 * gap, y], [x - gap, y]], [[x + gap, y], [x + 3 * gap, y]],
      [[x, y - 3 * gap], [x, y - gap]], [[x, y + gap], [x, y + 3 * gap]]]) {
      line(points, "black", [], 3);
      line(points, "#ff0", [], 1);
    }
  }

  let isDue = false;

  function show() { // at most once a frame of the screen
    if (!isDue) requestAnimationFrame(drawAll);
    isDue = true;
  }

  function drawAll() {
    isDue = false;
    panels.forEach(draw);
    part("slice").value = view.slice;
    part("zoom").value = view.zoom;
    part("overlay").checked = view.overlay;
    if (part("outlines")) part("outlines").checked = view.outlines;
    part("opacity").value = Math.round(100 * view.opacity);
    part("name").textContent = study.slice.replace("{n}", study.first + view.slice).replace("{of}", study.of);
  }

  function goTo(slice) {
    const before = view.slice;
    view.slice = Math.min(Math.max(slice, 0), depth - 1);
    show();
    return view.slice !== before;
  }

  function zoomTo(zoom, [x, y] = [view.x * width, view.y * height]) { // the voxel under the pointer stays there
    const before = view.zoom;
    view.zoom = Math.min(Math.max(zoom, 1), 8);
    view.x = x / width + (view.x - x / width) * (before / view.zoom);
    view.y = y / height + (view.y - y / height) * (before / view.zoom);
    show();
  }

  function reset() {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5, overlay: true, outlines: true, opacity: study.opacity });
    panels.forEach((panel) => (panel.window = [...panel.layer.window]));
    show();
  }

  function voxelAt(panel, event) {
    const box = panel.canvas.getBoundingClientRect();
    const [left, top, w, h] = seen();
    const x = Math.floor(left + ((event.clientX - box.left) / box.width) * w);
    const y = Math.floor(top + ((event.clientY - box.top) / box.height) * h);
    return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
  }

  // A drag moves the window: to the right wider, upwards to a lower level, so brighter. With Shift it moves the image.
  function drag(panel, event) {
    const box = panel.canvas.getBoundingClientRect();
    if (event.shiftKey || event.buttons === 4) {
      view.x -= event.movementX / box.width / view.zoom;
      view.y -= event.movementY / box.height / view.zoom;
    } else {
      const [low, high] = panel.window;
      const usual = panel.layer.window[1] - panel.layer.window[0];
      const wide = Math.max((high - low) * Math.exp(event.movementX / 150), usual / 200);
      const level = (low + high) / 2 + (event.movementY / 300) * usual;
      panel.window = [level - wide / 2, level + wide / 2];
    }
    show();
  }

  function listen(panel) {
    const { canvas } = panel;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      part("panels").focus({ preventScroll: true });
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      view.cursor = voxelAt(panel, event);
      if (event.buttons) drag(panel, event);
      else show();
    });
    canvas.addEventListener("pointerleave", () => { view.cursor = null; show(); });
    canvas.addEventListener("dblclick", () => { panel.window = [...panel.layer.window]; show(); });
    canvas.addEventListener("wheel", (event) => { // at the last slice the page scrolls on
      if (event.ctrlKey) zoomTo(view.zoom * Math.exp(-event.deltaY / 300), voxelAt(panel, event));
      else if (!goTo(view.slice - Math.sign(event.deltaY))) return;
      event.preventDefault();
    }, { passive: false });
  }

  // A click in the list of candidates shows the slice of its peak, and that in the middle of a zoomed image.
  function showCandidate(button) {
    const [x, y, slice] = button.dataset.place.split(" ").map(Number);
    Object.assign(view, { x: (x + 0.5) / width, y: (y + 0.5) / height, outlines: true });
    document.querySelectorAll(".lesions tr").forEach((row) => row.removeAttribute("aria-current"));
    button.closest("tr").setAttribute("aria-current", "true");
    goTo(slice);
    part("panels").closest("section").scrollIntoView({ behavior: "smooth" });
    part("panels").focus({ preventScroll: true });
  }

  const keys = {
    ArrowUp: () => goTo(view.slice + 1), ArrowDown: () => goTo(view.slice - 1),
    PageUp: () => goTo(view.slice + 5), PageDown: () => goTo(view.slice - 5),
    Home: () => goTo(depth - 1), End: () => goTo(0),
    "+": () => zoomTo(view.zoom * 1.25), "-": () => zoomTo(view.zoom / 1.25),
    o: () => { view.overlay = !view.overlay; show(); }, c: () => { view.outlines = !view.outlines; show(); }, r: reset,
  };
  part("panels").addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key]();
    event.preventDefault();
  });
  part("slice").addEventListener("input", (event) => goTo(Number(event.target.value)));
  part("zoom").addEventListener("input", (event) => zoomTo(Number(event.target.value)));
  part("opacity").addEventListener("input", (event) => { view.opacity = event.target.value / 100; show(); });
  part("overlay").addEventListener("change", (event) => { view.overlay = event.target.checked; show(); });
  part("outlines")?.addEventListener("change", (event) => { view.outlines = event.target.checked; show(); });
  document.querySelectorAll(".goto").forEach((one) => one.addEventListener("click", () => showCandidate(one)));
  part("reset").addEventListener("click", reset);

  part("slice").max = depth - 1;
  document.documentElement.classList.add("viewing");
  show();
  window.addEventListener("resize", show);
})();

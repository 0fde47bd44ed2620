"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
  const layers = Object.keys(parsed("colours"));
  const root = document.documentElement;
  const THEMES = {
    light: { ink: "#5b6069", strong: "#1c1f24", faint: "rgba(91,96,105,0.17)", paper: "#ffffff" },
    dark: { ink: "#a0a6b0", strong: "#e7e9ec", faint: "rgba(160,166,176,0.2)", paper: "#16181c" },
  };

  // State: the chosen layers (none chosen means all) and the theme, both kept in the address.
  const state = new URLSearchParams(location.hash.slice(1));
  let chosen = new Set((state.get("layers") || "").split("|").filter((name) => layers.includes(name)));
  const zoom = {}; // x dimension -> range shown in every figure over it
  const system = matchMedia("(prefers-color-scheme: dark)");
  const shown = (layer) => !layer || !chosen.size || chosen.has(layer);
  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");

  function remember() {
    const kept = new URLSearchParams();
    if (chosen.size) kept.set("layers", layers.filter((name) => chosen.has(name)).join("|"));
    if (root.dataset.theme) kept.set("theme", root.dataset.theme);
    try {
      history.replaceState(null, "", `#${kept}`);
    } catch (error) {
      if (!(error instanceof DOMException)) throw error; // some browsers forbid it on local files
    }
  }

  // Layers
  function choose(names) {
    chosen = new Set(names.length === layers.length ? [] : names);
    remember();
    showChoice();
    redraw();
  }
  const only = (name) => choose(chosen.size === 1 && chosen.has(name) ? [] : [name]);
  const toggle = (name) =>
    choose(layers.filter((layer) => (layer === name) !== (!chosen.size || chosen.has(layer))));

  function showChoice() {
    all(".chip").forEach((chip) => chip.setAttribute("aria-pressed", shown(chip.dataset.layer)));
    all(".all").forEach((button) => button.setAttribute("aria-pressed", !chosen.size));
    all("table[data-layers]").forEach((table) => {
      table.classList.toggle("chosen", chosen.size > 0);
      all("tbody tr", table).forEach((row) =>
        row.classList.toggle("on", chosen.has(row.dataset.layer)),
      );
    });
  }

  all(".chip").forEach((chip) => {
    const name = chip.dataset.layer;
    chip.addEventListener("click", (event) => {
      if (event.altKey) only(name);
      else if (event.detail < 2) toggle(name);
    });
    chip.addEventListener("dblclick", () => choose([name]));
  });
  all(".all").forEach((button) => button.addEventListener("click", () => choose([])));
  all("p .pick").forEach((pick) => pick.addEventListener("click", () => only(pick.dataset.layer)));
  all("table[data-layers] tbody tr").forEach((row) =>
    row.addEventListener("click", () => only(row.dataset.layer)),
  );

  // Tables
  const key = (row, column) => {
    const value = row.cells[column].dataset.value;
    return value === "" || isNaN(value) ? value : Number(value);
  };
  function compare(a, b) {
    if (a === b) return 0;
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }
  all("table.data").forEach((table) => {
    const body = table.tBodies[0];
    const heads = all("thead th", table);
    heads.forEach((head, column) =>
      head.firstElementChild.addEventListener("click", () => {
        const first = head.classList.contains("number") ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...body.rows].sort((a, b) => {
          const [left, right] = [key(a, column), key(b, column)];
          if (left === "" || right === "") return (left === "") - (right === ""); // empty ones last
          return sign * compare(left, right);
        });
        body.append(...rows);
      }),
    );
  });

  // Figures: each is drawn from its specification, the chosen layers, the theme and its width.
  const figures = all(".plot").map((node) => ({
    node, key: node.dataset.key, spec: parsed(`spec-${node.dataset.figure}`), drawn: false,
  }));
  const suffix = (panel) => (panel ? String(panel + 1) : "");

  function pick(trace) {
    const { layer, points, rows, columns } = trace.meta;
    if (!shown(layer)) return null;
    if (!chosen.size || !(points || rows || columns)) return trace;
    const keep = (names) => (names || []).map((name, i) => (shown(name) ? i : -1)).filter((i) => i >= 0);
    const take = (values, at) => (Array.isArray(values) ? at.map((i) => values[i]) : values);
    const down = points || rows ? keep(points || rows) : null;
    const made = { ...trace };
    if (points) {
      made.x = take(trace.x, down);
      made.y = take(trace.y, down);
      if (trace.marker) made.marker = { ...trace.marker, color: take(trace.marker.color, down) };
      if (trace.error_x) made.error_x = { ...trace.error_x, array: take(trace.error_x.array, down) };
    } else {
      const across = columns ? keep(columns) : null;
      made.z = (down ? take(trace.z, down) : trace.z).map((row) => (across ? take(row, across) : row));
      if (down) made.y = take(trace.y, down);
      if (across) made.x = take(trace.x, across);
    }
    return made;
  }

  const lines = (data) =>
    Math.max(1, ...data.filter((trace) => trace.meta.role !== "front").map((trace) => trace.y.length));
  const many = (data) => lines(data) > 24;

  // The height of one panel.
  function size(spec, data, rows) {
    const { kind } = spec.layout.meta;
    if (kind === "heatmap") return Math.max(150, lines(data) * (many(data) ? 12 : 26));
    if (kind === "bars") return Math.max(90, lines(data) * (many(data) ? 13 : 24) * (data.length > 1 ? 1.5 : 1));
    return rows === 1 ? 226 : rows > 4 ? 104 : 150;
  }

  function arrange(figure, data) {
    const layout = structuredClone(figure.spec.layout);
    const { panels, kind, across } = layout.meta;
    const visible = panels.map((_, i) => i).filter((i) => data.some((trace) => trace.meta.panel === i));
    const margin = layout.margin;
    const legend = layout.showlegend ? 26 : 0;
    margin.t += legend;
    const width = figure.node.clientWidth - margin.l - margin.r;
    const narrowest = width < 420 ? 130 : 205;
    const columns = Math.max(1, Math.min(visible.length, 5, Math.floor(width / narrowest)));
    const rows = Math.max(1, Math.ceil(visible.length / columns));
    const lead = figure.node.closest(".lead") && panels.length === 1 && kind !== "bars" ? 80 : 0;
    const each = size(figure.spec, data, rows);
    const gap = rows > 4 ? 30 : 40;
    const inside = rows * each + (rows - 1) * gap + lead;
    layout.height = inside + margin.t + margin.b;
    layout.legend = { ...layout.legend, y: 1, yref: "container", yanchor: "top", itemclick: false, itemdoubleclick: false };
    panels.forEach((_, panel) => {
      const [x, y] = [layout[`xaxis${suffix(panel)}`], layout[`yaxis${suffix(panel)}`]];
      const at = visible.indexOf(panel);
      if (at < 0) return Object.assign(x, { visible: false }) && Object.assign(y, { visible: false });
      if (y.type === "category") y.tickfont = { size: many(data) ? 9.5 : 12 };
      if (kind === "heatmap") y.range = [lines(data) - 0.5, -0.5];
      if (panels.length === 1) return undefined;
      const [row, column] = [Math.floor(at / columns), at % columns];
      x.domain = cell(column, columns, 20 / Math.max(width, 100));
      y.showticklabels = column === 0;
      y.domain = cell(rows - 1 - row, rows, gap / inside);
      x.showticklabels = at >= visible.length - columns;
      return (x.title.text = x.showticklabels ? across : "");
    });
    const gone = (name) => name.startsWith("panel ") && !visible.includes(Number(name.slice(6)));
    layout.annotations = layout.annotations.filter((note) => !gone(note.name));
    const panelOf = (shape) => Math.max(0, parseInt(shape.xref.slice(1), 10) - 1 || 0);
    layout.shapes = layout.shapes.filter((shape) => visible.includes(panelOf(shape)));
    return layout;
  }
  function cell(index, count, gap) {
    const size = (1 - gap * (count - 1)) / count;
    return [Math.max(0, index * (size + gap)), Math.min(1, index * (size + gap) + size)];
  }

  function paint(layout) {
    const { ink, strong, faint, paper } = THEMES[theme()];
    layout.font.color = ink;
    layout.hoverlabel = { bgcolor: paper, bordercolor: ink, font: { color: strong, size: 12.5 }, align: "left" };
    Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)).forEach((name) =>
      Object.assign(layout[name], { gridcolor: faint, linecolor: faint, tickcolor: faint }));
    layout.annotations.filter((note) => note.name !== "up").forEach((note) => (note.font = { color: strong }));
    layout.shapes.forEach((shape) => {
      shape.line.color = ink;
      shape.label.font.color = ink;
    });
    layout.uirevision = "kept";
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // leave touch to scrolling
    return layout;
  }
  // Error bars and words need more contrast than lines do.
  function inked(trace) {
    const { strong } = THEMES[theme()];
    if (trace.error_x) return { ...trace, error_x: { ...trace.error_x, color: strong } };
    if (trace.meta.role !== "label") return trace;
    return { ...trace, textfont: { ...trace.textfont, color: mixed(trace.textfont.color, strong) } };
  }
  function mixed(one, other) {
    const channel = (colour, at) => parseInt(colour.slice(at, at + 2), 16);
    return `rgb(${[1, 3, 5].map((at) => Math.round(0.7 * channel(one, at) + 0.3 * channel(other, at)))})`;
  }

  function draw(figure) {
    if (!window.Plotly) return;
    const data = figure.spec.data.map(pick).filter(Boolean).map(inked);
    const options = { displayModeBar: false, displaylogo: false, doubleClick: "reset", responsive: false };
    Plotly.react(figure.node, data, paint(arrange(figure, data)), options);
    if (figure.drawn) return;
    figure.drawn = true;
    figure.node.style.minHeight = 0;
    figure.node.closest("figure").querySelector(".note").textContent = figure.spec.layout.meta.note;
    figure.node.on("plotly_relayout", (change) => follow(figure, change));
    if (linkable(figure) && zoom[linkable(figure)]) show(figure, zoom[linkable(figure)]);
  }
  const redraw = () => figures.filter((figure) => figure.drawn).forEach(draw);
  addEventListener("layerscope-specs", ({ detail }) => { // of a page that is kept up to date
    figures.forEach((figure) => (figure.spec = detail[figure.key] || figure.spec));
    redraw();
  });

  // Zooming along x is shared by all figures over the same dimension.
  function linkable(figure) {
    const { kind, x } = figure.spec.layout.meta;
    const type = figure.spec.layout.xaxis.type || "linear";
    const numeric = figure.spec.data.every((trace) => typeof (trace.x[0] ?? 0) === "number");
    return (kind === "lines" || kind === "heatmap") && numeric ? `${x} ${type}` : null;
  }
  function show(figure, range) {
    figure.following = true;
    const change = range ? { "xaxis.range": [...range] } : { "xaxis.autorange": true };
    Plotly.relayout(figure.node, change).then(() => (figure.following = false));
  }
  function follow(figure, change) {
    const link = linkable(figure);
    if (figure.following || !link) return;
    const name = Object.keys(change).find((each) => /^xaxis\d*\.(range\[0\]|autorange)$/.test(each));
    if (!name) return;
    const axis = name.split(".")[0];
    zoom[link] = name.endsWith("autorange") ? null : [change[`${axis}.range[0]`], change[`${axis}.range[1]`]];
    figures
      .filter((other) => other !== figure && other.drawn && linkable(other) === link)
      .forEach((other) => show(other, zoom[link]));
  }

  // Saving
  function numbers(spec) {
    const text = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value ?? "");
    const panel = (trace) => spec.layout.meta.panels[trace.meta.panel] || "";
    const lines = spec.data.filter((trace) => trace.x && !["band", "label", "front"].includes(trace.meta.role)).flatMap((trace) =>
      trace.z
        ? trace.z.flatMap((row, i) => row.map((z, j) => [panel(trace), trace.y[i], trace.x[j], z]))
        : trace.x.map((x, i) => [panel(trace), trace.name, x, trace.y[i]]));
    return ["panel,name,x,value", ...lines.map((line) => line.map(text).join(","))].join("\n");
  }
  all("[data-save]").forEach((button) =>
    button.addEventListener("click", () => {
      button.closest("details").open = false;
      const node = button.closest("figure").querySelector(".plot");
      const figure = figures.find((each) => each.node === node);
      const filename = figure.key;
      if (button.dataset.save !== "csv") {
        Plotly.downloadImage(node, { format: button.dataset.save, filename, scale: 2 });
        return;
      }
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([numbers(figure.spec)], { type: "text/csv" }));
      link.download = `${filename}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    }),
  );

  // Theme
  all(".theme").forEach((button) =>
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      remember();
      redraw();
    }),
  );
  if (["light", "dark"].includes(state.get("theme"))) root.dataset.theme = state.get("theme");
  system.addEventListener("change", redraw);

  // Start: unpack the drawing library, then draw each figure when it comes near the screen.
  async function unpack() {
    const packed = atob(document.getElementById("library").textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  function watch() {
    const near = new IntersectionObserver((entries) =>
      entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
        near.unobserve(entry.target);
        draw(figures.find((figure) => figure.node === entry.target));
      }), { rootMargin: "400px" });
    figures.forEach((figure) => {
      figure.node.style.minHeight = `${arrange(figure, figure.spec.data).height}px`; // nothing jumps
      near.observe(figure.node);
    });
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth !== width) requestAnimationFrame(redraw);
      width = innerWidth;
    });
    addEventListener("beforeprint", () => figures.forEach(draw));
    root.dataset.ready = "";
  }
  showChoice();
  if (!figures.length) root.dataset.ready = "";
  else {
    unpack().then(watch).catch((error) => {
      const trouble = document.getElementById("trouble");
      trouble.textContent = `The figures could not be drawn in this browser (${error.message}).`;
      trouble.hidden = false;
    });
  }
})();

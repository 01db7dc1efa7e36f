"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const color = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const faded = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const KNOWN = ["before", "after", "teacher", "data"];
  const hue = (name) => color(KNOWN.includes(name) ? name : name === data.main ? "after" : "other");
  const NAMES = { data: "held-out text", training: "last training rounds" };

  // ---- plots: functions that give traces and layout, so that a change of theme draws them again
  const layout = (more) => {
    const axis = { gridcolor: color("grid"), linecolor: color("line"), zeroline: false, fixedrange: true, automargin: true, ticks: "", title: { standoff: 8 } };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, hovermode: "x unified",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("soft") },
      margin: { l: 48, r: 10, t: 26, b: 40 }, showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left", font: { size: 12.5 }, bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("ink"), size: 12.5 } },
      ...more,
      xaxis: { ...axis, showgrid: false, ...(more.xaxis || {}) }, yaxis: { ...axis, ...(more.yaxis || {}) },
    };
  };

  const smooth = (values) => {
    const keep = Math.exp(-1 / Math.max(1, values.length / 40));
    let sum = 0, weight = 0;
    return values.map((v) => { sum = keep * sum + v; weight = keep * weight + 1; return sum / weight; });
  };

  const stages = () => {
    const list = data.training.stages;
    const shapes = [], annotations = [];
    list.forEach((s, i) => {
      const edge = (a, b) => (a === undefined || b === undefined ? null : (a + b) / 2);
      const x0 = edge(list[i - 1] && list[i - 1].end, s.start) ?? s.start, x1 = edge(s.end, list[i + 1] && list[i + 1].start) ?? s.end;
      if (i % 2 === 0) shapes.push({ type: "rect", xref: "x", yref: "paper", x0, x1, y0: 0, y1: 1, fillcolor: color("stage"), line: { width: 0 }, layer: "below" });
      if (s.name) annotations.push({ x: x0, y: 1, xref: "x", yref: "paper", xanchor: "left", yanchor: "top", xshift: 4, yshift: -2, text: escape(s.name), showarrow: false, font: { size: 12, color: color("faint") } });
    });
    return { shapes, annotations };
  };

  // text from the run goes through this before it reaches plotly, which reads a few tags
  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // one line a stage: a mean that ran over the border would mix two objectives
  const byStage = (series) => {
    const out = [];
    data.training.stages.forEach((s) => {
      const inside = series.x.map((x, i) => [x, series.y[i]]).filter(([x]) => x >= s.start && x <= s.end);
      if (inside.length) out.push({ x: inside.map((p) => p[0]), y: inside.map((p) => p[1]) });
    });
    return out;
  };

  const curve = (name, shown, label, visible = true) => byStage(data.training.series[name]).flatMap((part, i) => [
    { x: part.x, y: part.y, mode: "lines", line: { color: faded(shown, 0.28), width: 1 }, hoverinfo: "skip", showlegend: false, legendgroup: name, visible },
    { x: part.x, y: smooth(part.y), mode: "lines", name: escape(label), line: { color: shown, width: 2.4 }, showlegend: i === 0, legendgroup: name, visible, hovertemplate: "%{y:.4f}" },
  ]);

  const training = (names, title) => () => {
    const hues = [color("after"), color("teacher"), color("data"), color("other"), color("before")];
    const traces = names.flatMap((n, i) => curve(n, hues[i % hues.length], n, i === 0 ? true : "legendonly"));
    const marked = stages();
    return [traces, layout({ ...marked, showlegend: names.length > 1, xaxis: { title: { text: "step", standoff: 6 } }, yaxis: { title: { text: title, standoff: 6 }, rangemode: "tozero" } })];
  };

  const bars = (facet, field, format, suffix) => () => {
    const traces = data.systems.filter((n) => data[facet][n].length).map((n) => ({
      type: "bar", name: escape(n), x: data[facet][n].map((r) => r.label), y: data[facet][n].map((r) => r[field]),
      customdata: data[facet][n].map((r) => r.count), marker: { color: hue(n), cornerradius: 3 }, hovertemplate: `%{y:${format}}${suffix} (%{customdata:,} positions)`,
    }));
    return [traces, layout({ barmode: "group", bargap: 0.28, bargroupgap: 0.06, xaxis: { type: "category" }, yaxis: { rangemode: "tozero", title: { text: "nats a token", standoff: 6 } } })];
  };

  const position = () => {
    const traces = data.systems.filter((n) => data.position[n].length).map((n) => ({
      mode: "lines+markers", name: escape(n), x: data.position[n].map((r) => r.label), y: data.position[n].map((r) => r.top1),
      customdata: data.position[n].map((r) => [r.kl, r.count]), line: { color: hue(n), width: 2.4 }, marker: { color: hue(n), size: 7, symbol: n === "before" ? "circle-open" : "circle", line: { width: 2, color: hue(n) } },
      hovertemplate: "%{y:.1%}, KL %{customdata[0]:.3f} (%{customdata[1]:,} positions)",
    }));
    return [traces, layout({ xaxis: { type: "category", title: { text: "position in the answer", standoff: 6 } }, yaxis: { tickformat: ".0%", range: [0, 1.02] } })];
  };

  const bins = () => {
    const names = [...data.systems, "teacher"].filter((n) => (data.bins[n] || []).length);
    const total = (n) => data.bins[n].reduce((a, b) => a + b.count, 0);
    const traces = [{ x: [0, 1], y: [0, 1], mode: "lines", line: { color: color("faint"), dash: "dash", width: 1.2 }, hoverinfo: "skip", showlegend: false }];
    names.forEach((n) => traces.push({
      mode: "lines+markers", name: escape(n), x: data.bins[n].map((b) => b.confidence), y: data.bins[n].map((b) => b.accuracy), customdata: data.bins[n].map((b) => [b.count, b.count / total(n)]),
      line: { color: hue(n), width: n === "teacher" ? 1.6 : 2.4, dash: n === "teacher" ? "dot" : "solid" },
      marker: { color: hue(n), size: data.bins[n].map((b) => 4 + 10 * Math.sqrt(b.count / total(n))), line: { width: 0 } },
      hovertemplate: `<b>${escape(n)}</b><br>says %{x:.1%}, is right %{y:.1%}<br>%{customdata[0]:,} positions (%{customdata[1]:.0%})<extra></extra>`,
    }));
    return [traces, layout({ hovermode: "closest", xaxis: { range: [0, 1.02], tickformat: ".0%", title: { text: "confidence", standoff: 6 }, showgrid: true }, yaxis: { range: [0, 1.02], tickformat: ".0%", title: { text: "accuracy", standoff: 6 } } })];
  };

  const lengths = () => {
    const names = Object.keys(data.lengths).filter((n) => data.lengths[n].length);
    const most = Math.max(...names.flatMap((n) => data.lengths[n]));
    const size = Math.max(1, Math.ceil((most + 1) / 24));
    const traces = names.map((n) => ({
      type: "histogram", name: escape(NAMES[n] || n), x: data.lengths[n], histnorm: "probability", opacity: 0.62, marker: { color: hue(n) },
      xbins: { start: 0, end: most + size, size }, visible: n === "before" || n === "training" ? "legendonly" : true, hovertemplate: "%{y:.0%}",
    }));
    return [traces, layout({ barmode: "overlay", xaxis: { title: { text: "tokens", standoff: 6 } }, yaxis: { tickformat: ".0%" } })];
  };

  const single = (name, title, type) => () => [curve(name, color("after"), title), layout({ ...stages(), showlegend: false, title: { text: title, font: { size: 13 }, x: 0.02, y: 0.98 }, margin: { l: 44, r: 8, t: 30, b: 28 }, yaxis: { type, rangemode: "tozero", exponentformat: "power" } })];

  const provenance = (trace) => () => {
    const hues = { teacher: color("teacher"), student: color("before"), boosted: color("after"), shared: color("data"), common: color("data") };
    const traces = trace.labels.flatMap((label) => trace.sides.map((side) => ({
      mode: "lines", name: escape(trace.sides.length > 1 ? `${label}, ${side}` : label), x: trace.by_position[side].map((r) => r.position + 1), y: trace.by_position[side].map((r) => r[label]),
      customdata: trace.by_position[side].map((r) => r.count), line: { color: hues[label], width: 2.2, dash: side === "wrong" ? "dash" : "solid" },
      visible: ["teacher", "student"].includes(label) || trace.sides.length === 1 ? true : "legendonly", hovertemplate: "%{y:.0%} of %{customdata:,} answers",
    })));
    return [traces, layout({ xaxis: { title: { text: "sentence of the answer", standoff: 6 } }, yaxis: { tickformat: ".0%", range: [0, 1.02] } })];
  };

  const plots = {
    ...Object.fromEntries(data.provenance.map((trace, i) => [`plot-provenance-${i}`, provenance(trace)])),
    "plot-loss": training(["loss", ...data.training.terms], "loss"),
    "plot-kl": training(["kl"], "nats a token"),
    "plot-learning_rate": single("learning_rate", "Learning rate"), "plot-grad_norm": single("grad_norm", "Gradient norm"), "plot-tokens_per_second": single("tokens_per_second", "Tokens a second"),
    "plot-position": position, "plot-class": bars("class", "kl", ".3f", " nats"), "plot-bins": bins, "plot-lengths": lengths,
  };
  const draw = (id) => {
    const place = document.getElementById(id);
    if (!place || place.offsetParent === null) return;
    try {
      const [traces, options] = plots[id]();
      if (traces.length) Plotly.react(place, traces, options, { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false });
    } catch (error) { root.dataset.failed = id; place.textContent = "This plot could not be drawn: " + error.message; }
  };
  const drawAll = () => Object.keys(plots).forEach(draw);
  drawAll();
  document.querySelectorAll("details").forEach((d) => d.addEventListener("toggle", () => d.open && d.querySelectorAll(".plot").forEach((p) => draw(p.id))));

  // ---- theme
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remember = (value) => { try { localStorage.setItem("tutelage-theme", value); } catch { /* a page opened from a file may have no storage */ } };
  try { const kept = localStorage.getItem("tutelage-theme"); if (kept) { root.dataset.theme = kept; drawAll(); } } catch { /* as above */ }
  document.getElementById("theme").addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
    root.dataset.theme = isDark ? "light" : "dark";
    remember(root.dataset.theme);
    drawAll();
  });
  dark.addEventListener("change", drawAll);

  // ---- what both models had in mind at a token; built from text nodes, never from markup
  const tip = document.getElementById("tip");
  const node = (tag, text) => { const n = document.createElement(tag); if (text !== undefined) n.textContent = text; return n; };
  const visible = (text) => (text === "" ? "(part of a character)" : text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ | $/g, "␣"));
  let held = null;
  const show = (span) => {
    if (held) held.classList.remove("on");
    held = span;
    span.classList.add("on");
    const t = JSON.parse(span.dataset.tip);
    tip.replaceChildren();
    const head = node("div");
    const word = node("b"); word.append(node("code", visible(t.t)));
    head.append(word, t.k === null ? "" : `  ${t.k.toFixed(2)} nats`);
    tip.append(head);
    if (t.s && t.p) {
      const table = node("table"), top = node("tr");
      ["teacher", "", "student", ""].forEach((x) => top.append(node("th", x)));
      const thead = node("thead"); thead.append(top); table.append(thead);
      const body = node("tbody"); table.append(body);
      for (let i = 0; i < Math.max(t.s.length, t.p.length); i++) {
        const row = node("tr");
        for (const side of [t.p, t.s]) {
          const cell = node("td"); cell.append(node("code", side[i] ? visible(side[i][0]) : "")); row.append(cell);
          row.append(node("td", side[i] ? (100 * side[i][1]).toFixed(0) + " %" : ""));
        }
        body.append(row);
      }
      tip.append(table);
    }
    tip.hidden = false;
    const box = span.getClientRects()[0] || span.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(12, box.left), root.clientWidth - own.width - 12);
    const above = box.top - own.height - 8;
    tip.style.left = left + scrollX + "px";
    tip.style.top = (above > 60 ? above : box.bottom + 8) + scrollY + "px";
  };
  const hide = () => { tip.hidden = true; if (held) held.classList.remove("on"); held = null; };
  document.addEventListener("pointerover", (e) => { const s = e.target.closest && e.target.closest("[data-tip]"); if (s) show(s); else if (held && e.pointerType === "mouse") hide(); });
  document.addEventListener("click", (e) => { const s = e.target.closest && e.target.closest("[data-tip]"); if (s) show(s); else hide(); });
  document.addEventListener("keydown", (e) => { if (e.key === "Escape") hide(); });

  // ---- copy
  document.querySelectorAll(".copy").forEach((b) => b.addEventListener("click", async () => {
    const pre = document.getElementById(b.dataset.copy);
    try { await navigator.clipboard.writeText(pre.textContent); b.textContent = "Copied"; } catch {
      const range = document.createRange(); range.selectNodeContents(pre); getSelection().removeAllRanges(); getSelection().addRange(range); b.textContent = "Selected";
    }
    setTimeout(() => { b.textContent = "Copy"; }, 1600);
  }));
  root.dataset.ready = "yes";
})();

// Charts over training steps: plots below each other share the steps, the crosshair and one box of values.
// They are drawn in a shadow root: a new point every second concerns nobody outside.
//
// trainLora.chart(element, {label, perEpoch, ends, band, plots}): draw, or bring up to date.
//   ends: the last steps of the epochs; band: {from, to, text} in steps, or null;
//   plots: [{name, title, label, height, format, lines}]; lines: [{name, points, kind, colour}], points [[step, value], …];
//   kind: "faint" (may leave the range), "strong", "solid", "dashed" or "dotted".
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.chart) return;
  const { t, count } = lora;

  const SVG = "http://www.w3.org/2000/svg";
  const [BOTTOM, NARROW, LOW] = [24, 520, 100]; // pixels; a plot lower than LOW has no epoch numbers over it
  const DASHES = { dashed: "7 4", dotted: "2 4" };
  const STYLE = `
    :host { display: block; color: var(--body-text-color, #1f2937); font: 12px/1.4 var(--font, system-ui, sans-serif); font-variant-numeric: tabular-nums; }
    .plots { position: relative; touch-action: pan-y; border-radius: 6px; outline-offset: 2px; }
    .plots:focus-visible { outline: 2px solid var(--primary-500, #f97316); }
    .plot + .plot { margin-top: 12px; }
    .head { position: relative; min-height: 26px; }
    .keys { display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: center; padding: 2px 56px 4px 2px; }
    .head b { font-size: 13px; }
    .key { display: inline-flex; gap: 6px; align-items: center; }
    .key svg { flex: none; }
    button { position: absolute; top: 0; right: 0; padding: 2px 9px; border: 1px solid var(--border-color-primary, #d1d5db); border-radius: 6px; background: none; color: inherit; font: inherit; cursor: pointer; }
    button[aria-pressed="true"] { border-color: var(--primary-500, #f97316); background: var(--primary-500, #f97316); color: #fff; }
    .area { display: block; width: 100%; overflow: visible; }
    text { fill: currentColor; }
    .quiet { opacity: .72; }
    .halo { paint-order: stroke; stroke: var(--background-fill-primary, Canvas); stroke-width: 4px; stroke-linejoin: round; }
    .tip { position: absolute; top: 0; left: 0; z-index: 2; min-width: 132px; padding: 7px 10px; border: 1px solid var(--border-color-primary, #d1d5db); border-radius: 6px;
      background: var(--background-fill-primary, Canvas); color: inherit; box-shadow: 0 3px 12px rgb(0 0 0 / .22); pointer-events: none; white-space: nowrap; }
    .tip[hidden] { display: none; }
    .tip b { display: block; margin-bottom: 2px; }
    .tip div { display: grid; grid-template-columns: 24px 1fr auto; gap: 6px; align-items: center; }
    .tip div i { font-style: normal; opacity: .8; }
    .tip div span { font-weight: 600; text-align: right; }
  `;

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // About `most` round numbers, 1, 2 or 5 times a power of ten apart, between low and high.
  function ticks(low, high, most, smallest = 0) {
    const rough = Math.max((high - low) / Math.max(1, most), smallest, 1e-12);
    const power = 10 ** Math.floor(Math.log10(rough));
    const gap = Math.max(smallest, [1, 2, 5, 10].map((factor) => power * factor).find((wide) => wide >= rough * 0.999));
    const [first, last] = [Math.ceil(low / gap - 1e-9), Math.floor(high / gap + 1e-9)];
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => (first + index) * gap);
  }

  function logTicks(low, high, most) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const factor of [1, 2, 5]) found.push({ value: factor * 10 ** power, decade: factor === 1 });
    }
    const inside = found.filter(({ value }) => value >= low * 0.999 && value <= high * 1.001);
    if (inside.length < 2) return ticks(low, high, most).filter((value) => value > 0);
    return (inside.length > most + 2 ? inside.filter(({ decade }) => decade) : inside).map(({ value }) => value);
  }

  const number = (value) => (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1000) ? value.toPrecision(3) : value.toFixed(4));

  // A rate as people write it: 0.00012 is 1.2e-4.
  function short(rate) {
    if (!rate || (Math.abs(rate) >= 0.01 && Math.abs(rate) < 1000)) return String(Number(rate.toPrecision(3)));
    const [mantissa, exponent] = rate.toExponential(2).split("e");
    return `${Number(mantissa)}e${Number(exponent)}`;
  }

  function level(value, levels, format) {
    const gap = levels.length > 1 ? Math.min(...levels.slice(1).map((one, index) => one - levels[index])) : Math.abs(levels[0]) || 1;
    const digits = Math.max(0, -Math.floor(Math.log10(gap) + 1e-9));
    return format === short || digits > 4 ? short(Number(value.toPrecision(6))) : value.toFixed(digits);
  }

  function quantile(ordered, share) {
    const place = share * (ordered.length - 1), below = Math.floor(place);
    return ordered[below] + (place - below) * ((ordered[below + 1] ?? ordered[below]) - ordered[below]);
  }

  // The whole of the steady lines; of faint ones what isn't far from their middle half.
  function range(lines, log) {
    let [low, high] = [Infinity, -Infinity];
    const widen = (one, other) => { low = Math.min(low, one); high = Math.max(high, other); };
    for (const { points, kind } of lines) {
      const values = points.map((point) => point[1]).filter((value) => Number.isFinite(value) && (!log || value > 0));
      if (!values.length) continue;
      values.sort((a, b) => a - b);
      const [first, last] = [values[0], values[values.length - 1]];
      if (kind !== "faint" || values.length < 8) widen(first, last);
      else {
        const [q1, q3] = [quantile(values, 0.25), quantile(values, 0.75)];
        const far = 3 * (q3 - q1), many = values.length >= 100;
        widen(Math.max(first, many ? Math.min(q1 - far, quantile(values, 0.02)) : q1 - far), Math.min(last, many ? Math.max(q3 + far, quantile(values, 0.98)) : q3 + far));
      }
    }
    if (low > high) return log ? [0.1, 1] : [0, 1];
    if (log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.06, high * (high / low) ** 0.06];
    const flat = high - low < 1e-6 * Math.max(Math.abs(high), Math.abs(low));
    const pad = (flat ? Math.abs(high) * 0.1 : (high - low) * 0.07) || 0.1;
    return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
  }

  // The point nearest to a step; points are in order of their steps.
  function nearest(points, step) {
    let [low, high] = [0, points.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] <= step) low = middle; else high = middle;
    }
    return high < 0 ? null : Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
  }

  function stroke({ kind, colour }) {
    if (kind === "faint") return { stroke: "currentColor", "stroke-width": 1, opacity: 0.38 };
    return { stroke: colour, "stroke-width": kind === "strong" ? 2.4 : 2, ...(DASHES[kind] ? { "stroke-dasharray": DASHES[kind] } : {}) };
  }

  function swatch(line) {
    return draw("svg", { width: 24, height: 10, "aria-hidden": "true" },
      line.band ? draw("rect", { x: 0, y: 0, width: 24, height: 10, fill: "var(--train-lora-band, #84cc16)", opacity: 0.35 })
        : draw("line", { x1: 0, x2: 24, y1: 5, y2: 5, ...stroke(line) }),
      ...(line.dots ? [draw("circle", { cx: 12, cy: 5, r: 3, fill: line.colour })] : []));
  }

  const kept = {
    key: (name) => `train-lora-log-scale-${name}`,
    read(name) { try { return localStorage.getItem(this.key(name)) === "1"; } catch { return false; } },
    write(name, on) { try { localStorage.setItem(this.key(name), on ? "1" : "0"); } catch { /* a private window keeps nothing */ } },
  };

  class Chart {
    constructor(element) {
      this.root = element.shadowRoot || element.attachShadow({ mode: "open" });
      this.tip = lora.make("div", { class: "tip", role: "status", hidden: true });
      this.body = lora.make("div");
      this.plots = lora.make("div", { class: "plots", tabindex: "0" }, this.body, this.tip);
      this.root.replaceChildren(lora.make("style", {}, STYLE), this.plots);
      this.step = null;
      this.width = 0;
      this.areas = [];
      this.frames = new Map();
      const point = (event) => this.point(event.clientX, event.clientY);
      this.plots.addEventListener("pointermove", point);
      this.plots.addEventListener("pointerdown", point);
      this.plots.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.leave(); });
      this.plots.addEventListener("blur", () => this.leave());
      this.plots.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => {
        const width = Math.round(this.plots.clientWidth);
        if (width && width !== this.width) this.draw();
      }).observe(this.plots);
    }

    update(data) {
      this.data = { ...data, plots: data.plots.filter((plot) => plot.lines.some((line) => line.points.length)) };
      const all = this.data.plots.flatMap((plot) => plot.lines.flatMap((line) => line.points.map((point) => point[0])));
      this.first = Math.min(...all);
      this.last = Math.max(this.first + 1, ...all);
      const longest = this.data.plots.flatMap((plot) => plot.lines).reduce((one, other) => (other.points.length > one.length ? other.points : one), []);
      this.stops = longest.map((point) => point[0]);
      lora.mark(this.plots, "aria-label", data.label);
      lora.mark(this.plots, "role", "group");
      this.draw();
    }

    x(step) { return this.left + ((step - this.first) / (this.last - this.first)) * (this.width - this.left - this.right); }

    draw() {
      this.width = Math.round(this.plots.clientWidth);
      if (!this.width || !this.data) return;
      const narrow = this.width < NARROW;
      [this.left, this.right] = narrow ? [44, 50] : [54, 58];
      this.areas = this.data.plots.map((plot, index) => this.plot(plot, index === this.data.plots.length - 1));
      lora.list(this.body, this.areas, (area) => area.plot.name, (area) => area.element);
      this.cross();
    }

    plot(plot, last) {
      const log = kept.read(plot.name), values = range(plot.lines, log);
      const top = plot.height < LOW ? 8 : 26, bottom = top + plot.height, height = bottom + (last ? BOTTOM : 6);
      const place = log ? Math.log : (value) => value;
      const [low, high] = values.map(place);
      const y = (value) => bottom - Math.min(1, Math.max(0, (place(Math.max(value, log ? values[0] : value)) - low) / (high - low))) * plot.height;
      const { element, head, svg } = this.frame(plot.name);
      this.head(head, plot, log);
      const look = { "aria-label": plot.label, viewBox: `0 0 ${this.width} ${height}`, height };
      for (const [name, value] of Object.entries(look)) svg.setAttribute(name, value);
      const area = { plot, element, svg, y, top, bottom, values, cross: draw("g", { "aria-hidden": "true" }) };
      svg.replaceChildren(...this.band(area, plot), ...this.levels(area, log), ...this.epochs(area), ...(last ? this.steps(area) : []),
        ...plot.lines.flatMap((line) => this.line(area, line)), ...this.ends(area), area.cross);
      return area;
    }

    // What stays of a plot from one point to the next: else a click that takes longer than a redraw would be lost.
    frame(name) {
      if (!this.frames.has(name)) {
        const button = lora.make("button", {
          type: "button", "data-log": name, title: t("Logarithmic scale: equal factors are equally far apart."),
          onclick: () => { kept.write(name, !kept.read(name)); this.draw(); },
        }, t("log"));
        const head = lora.make("div", { class: "head" }, lora.make("span", { class: "keys" }), button);
        const svg = draw("svg", { class: "area", role: "img", fill: "none" });
        this.frames.set(name, { element: lora.make("div", { class: "plot" }, head, svg), head, svg });
      }
      return this.frames.get(name);
    }

    head(head, plot, log) {
      const keys = plot.lines.filter((line) => line.points.length);
      const band = plot.band && this.data.band ? [{ band: true, name: this.data.band.text }] : [];
      const all = [...keys, ...band];
      lora.fill(head.firstChild, JSON.stringify([plot.title, ...all.map((line) => [line.name, line.kind, line.colour])]), () => [
        lora.make("b", {}, plot.title), ...all.map((line) => lora.make("span", { class: "key" }, swatch(line), line.name))]);
      lora.mark(head.lastChild, "aria-pressed", log);
    }

    band({ top, bottom }, plot) {
      const band = this.data.band;
      if (!band) return [];
      const from = Math.max(this.left, this.x(band.from) - 4), to = Math.min(this.width - this.right, this.x(band.to) + 4);
      const shade = draw("rect", { x: from, y: top, width: Math.max(0, to - from), height: bottom - top, fill: "var(--train-lora-band, #84cc16)", opacity: 0.22 });
      if (!plot.band) return [shade];
      const words = t("candidates"), wide = 6.4 * words.length;
      const middle = Math.min(this.width - this.right - wide / 2, Math.max(this.left + wide / 2, (from + to) / 2));
      return [shade, draw("text", { class: "halo", x: middle, y: top + 12, "text-anchor": "middle", "font-size": 11 }, words)];
    }

    levels({ y, bottom, values, plot }, log) {
      const most = Math.max(3, Math.round(plot.height / 30));
      let levels = log ? logTicks(...values, most) : ticks(...values, most);
      for (let more = most + 1; !log && levels.length < 3 && more < 3 * most; more += 1) levels = ticks(...values, more);
      const right = this.width - this.right;
      return [
        ...levels.flatMap((value) => [
          draw("line", { x1: this.left, x2: right, y1: y(value), y2: y(value), stroke: "currentColor", opacity: 0.14 }),
          draw("text", { class: "quiet", x: this.left - 7, y: y(value) + 4, "text-anchor": "end" }, log ? short(value) : level(value, levels, plot.format)),
        ]),
        draw("line", { x1: this.left, x2: right, y1: bottom, y2: bottom, stroke: "currentColor", opacity: 0.4 }),
      ];
    }

    steps({ bottom }) {
      const most = Math.max(2, Math.floor((this.width - this.left - this.right) / 80));
      const right = this.width - this.right;
      return [
        ...ticks(this.first, this.last, most, 1).flatMap((step) => [
          draw("line", { x1: this.x(step), x2: this.x(step), y1: bottom, y2: bottom + 4, stroke: "currentColor", opacity: 0.4 }),
          draw("text", { class: "quiet", x: this.x(step), y: bottom + 17, "text-anchor": "middle" }, count(Math.round(step))),
        ]),
        draw("text", { class: "quiet", x: this.width - 2, y: bottom + 17, "text-anchor": "end" }, right > 0 ? t("step") : ""),
      ];
    }

    // A dashed line at each epoch's end; numbers, and lines, only as close as they can be read.
    epochs({ plot, top, bottom }) {
      const ends = this.data.ends.filter((end) => end >= this.first && end <= this.last);
      if (!ends.length) return [];
      const wide = (this.x(ends[ends.length - 1]) - this.x(this.first)) / ends.length;
      const every = Math.max(1, Math.ceil((12 + 8 * String(this.data.ends.length).length) / Math.max(0.1, wide)));
      const numbered = plot.height >= LOW, number = { class: "quiet", y: top - 10, "font-size": 11 };
      const parts = numbered ? [draw("text", { ...number, x: this.left - 7, "text-anchor": "end" }, t("epoch"))] : [];
      this.data.ends.forEach((end, index) => {
        const shown = index + 1 === this.data.ends.length || ((index + 1) % every === 0 && this.data.ends.length - index - 1 >= every);
        if (!shown || end < this.first || end > this.last) return;
        parts.push(draw("line", { x1: this.x(end), x2: this.x(end), y1: top, y2: bottom, stroke: "currentColor", "stroke-dasharray": "2 4", opacity: 0.4 }));
        if (numbered) parts.push(draw("text", { ...number, x: this.x(end), "text-anchor": "middle" }, String(index + 1)));
      });
      return parts;
    }

    line({ y, top: edge, values }, line) {
      const places = line.points.map(([step, value]) => [this.x(step), y(value)]);
      const look = { ...stroke(line), "stroke-linejoin": "round", "stroke-linecap": "round" };
      const parts = [draw("polyline", { points: places.map(([x, top]) => `${x.toFixed(1)},${top.toFixed(1)}`).join(" "), ...look })];
      if (line.dots && places.length <= 80) parts.push(...places.map(([cx, cy]) => draw("circle", { cx, cy, r: 3.2, fill: line.colour })));
      else if (places.length === 1) parts.push(draw("circle", { cx: places[0][0], cy: places[0][1], r: 2.5, fill: line.kind === "faint" ? "currentColor" : line.colour }));
      for (const [step, value] of line.points.filter((point) => point[1] > values[1]).slice(0, 40)) {
        const x = this.x(step);
        parts.push(draw("path", { d: `M${x - 4},${edge + 5} L${x},${edge - 2} L${x + 4},${edge + 5} Z`, fill: "currentColor", opacity: 0.6 },
          draw("title", {}, t("step {step}: {value}, above what is shown", { step: count(step), value: number(value) }))));
      }
      return parts;
    }

    // The lines' last values on the right, moved apart where they would cover each other.
    ends({ plot, y, bottom }) {
      const labels = plot.lines.filter((line) => line.kind !== "faint" && line.points.length).map((line) => {
        const [step, value] = line.points[line.points.length - 1];
        return { line, x: this.x(step), at: y(value), y: y(value), text: plot.format(value) };
      }).sort((a, b) => a.y - b.y);
      labels.forEach((label, index) => { if (index) label.y = Math.max(label.y, labels[index - 1].y + 13); });
      const over = labels.length ? labels[labels.length - 1].y - (bottom - 4) : 0;
      if (over > 0) labels.reverse().forEach((label, index) => { label.y = Math.min(label.y, index ? labels[index - 1].y - 13 : bottom - 4); });
      return labels.flatMap(({ line, x, at, y: top, text }) => [
        ...(line.dots ? [] : [draw("circle", { cx: x, cy: at, r: 3.2, fill: line.colour })]),
        draw("text", { class: "halo", x: Math.max(x, this.width - this.right) + 6, y: top + 4, "font-weight": 600, style: `fill:${line.colour}` }, text),
      ]);
    }

    // The crosshair and the box of values

    point(clientX) {
      const place = clientX - this.plots.getBoundingClientRect().left;
      const share = (place - this.left) / (this.width - this.left - this.right);
      if (!this.stops || share < -0.05 || share > 1.05) {
        this.leave();
        return;
      }
      this.at(nearest(this.stops.map((step) => [step]), this.first + share * (this.last - this.first))?.[0] ?? null);
    }

    at(step) {
      if (step === this.step && !this.tip.hidden) return;
      this.step = step;
      this.cross();
    }

    leave() {
      this.step = null;
      this.cross();
    }

    key(event) {
      if (event.target !== this.plots || !this.stops || !this.stops.length) return;
      const now = this.step === null ? this.stops.length : this.stops.indexOf(this.step);
      const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: this.stops.length - 1, PageUp: now - 20, PageDown: now + 20 };
      if (event.key === "Escape") this.leave();
      else if (event.key in moves) {
        event.preventDefault();
        this.at(this.stops[Math.min(this.stops.length - 1, Math.max(0, moves[event.key]))]);
      }
    }

    cross() {
      const step = this.step;
      for (const area of this.areas) area.cross.replaceChildren();
      if (step === null || !this.areas.length) {
        this.tip.hidden = true;
        return;
      }
      const rows = [], x = this.x(step);
      for (const { plot, cross, y, top, bottom } of this.areas) {
        cross.append(draw("line", { x1: x, x2: x, y1: top, y2: bottom, stroke: "currentColor", opacity: 0.55 }));
        for (const line of plot.lines) {
          const point = nearest(line.points, step);
          if (!point) continue;
          const colour = line.kind === "faint" ? "currentColor" : line.colour;
          cross.append(draw("circle", { cx: this.x(point[0]), cy: y(point[1]), r: 4, fill: colour, stroke: "var(--background-fill-primary, Canvas)", "stroke-width": 1.5 }));
          const far = line.dots && point[0] !== step ? t("{name}, step {step}", { name: line.name, step: count(point[0]) }) : line.name;
          rows.push(lora.make("div", {}, swatch(line), lora.make("i", {}, far), lora.make("span", {}, plot.format(point[1]))));
        }
      }
      const epoch = this.data.perEpoch ? Math.max(1, Math.ceil(step / this.data.perEpoch)) : 0;
      const title = epoch ? t("Step {step}, epoch {epoch}", { step: count(step), epoch: count(epoch) }) : t("Step {step}", { step: count(step) });
      this.tip.replaceChildren(lora.make("b", {}, title), ...rows);
      this.tip.hidden = false;
      const wide = this.tip.offsetWidth, beside = x + 14 + wide <= this.width ? x + 14 : x - 14 - wide;
      const from = this.plots.getBoundingClientRect().top, inside = this.areas[0].svg.getBoundingClientRect().top - from;
      const above = this.width < NARROW && from + inside > this.tip.offsetHeight; // where it would cover the curves
      const top = above ? inside - this.tip.offsetHeight : inside + this.areas[0].top;
      this.tip.style.transform = `translate(${Math.round(Math.max(0, Math.min(beside, this.width - wide)))}px, ${Math.round(top)}px)`;
    }
  }

  document.addEventListener("pointerdown", (event) => {
    for (const element of lora.page().querySelectorAll(".train-lora-chart")) {
      if (element.trainLoraChart && !event.composedPath().includes(element)) element.trainLoraChart.leave();
    }
  });

  lora.chart = (element, data) => {
    if (!element.trainLoraChart) element.trainLoraChart = new Chart(element);
    element.trainLoraChart.update(data);
  };
  lora.number = number;
  lora.short = short;
})();

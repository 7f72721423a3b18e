// The columns, like an equaliser's: drawn across with the mouse or a finger, moved by wheel and keys, typed as numbers.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.scope) return;
  const { t, make, say, show, mark, fill } = lora;
  const { state, rules } = blocks;

  const SPAN = rules.HIGH - rules.LOW, NARROW = 34, GENTLE = 0.2, TAP = 350; // NARROW: pixels of a column that has room for a number
  const MARKS = [2, 1.5, 1, 0.5, 0, -0.5, -1];
  const SIZES = { 64: "64²", 32: "32²", 16: "16²", 8: "8²", 96: "96²", 48: "48²", 24: "24²", 12: "12²", 128: "128²" };
  let scope = null, curve = null, drags = 0, chosen = "", parts = null, columns = [];

  const percent = (value) => (100 * (rules.HIGH - Math.min(rules.HIGH, Math.max(rules.LOW, value)))) / SPAN;
  const inScope = () => (scope ? (blocks.topology().groups[scope] || []) : columns).filter((block) => columns.includes(block));
  const groupName = (group) => SIZES[group] || group;
  const groupHelp = (group) => ({ BASE: t("The text encoder: what the words mean"), IN: t("The way in: what is in the picture"), MID: t("The middle: the whole at its coarsest"), OUT: t("The way out: how it is drawn") }[group]
    || t("Blocks that see the picture at {size} × {size} points: the more points, the finer what they draw", { size: group }));

  function set(weights, label, key) {
    blocks.setWeights(weights, label, key);
  }

  function setBlock(block, value, key = "") {
    const one = blocks.active();
    if (blocks.locked().has(block)) return;
    set({ ...one.weights, [block]: value }, block, key);
  }

  function lock(block) {
    const one = blocks.active(), locks = new Set(blocks.locked());
    if (!locks.delete(block)) locks.add(block);
    state.locks[one.name] = [...locks];
    blocks.remember();
    blocks.redraw();
  }

  // Drawing across: from one place of the pointer to the next every column between them follows.

  function pointing(area) {
    let drag = null, tapped = { at: 0, block: "" };
    const place = (event) => {
      const box = area.getBoundingClientRect();
      const column = Math.max(0, Math.min(columns.length - 1, Math.floor((columns.length * (event.clientX - box.left)) / box.width)));
      return { column, x: (columns.length * (event.clientX - box.left)) / box.width, value: rules.HIGH - (SPAN * (event.clientY - box.top)) / box.height };
    };

    area.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const at = place(event), block = columns[at.column], again = tapped.block === block && Date.now() - tapped.at < TAP;
      tapped = { at: Date.now(), block };
      event.preventDefault();
      area.setPointerCapture(event.pointerId);
      drag = { key: `drag-${again ? drags : (drags += 1)}`, from: at, last: at, block, old: blocks.active().weights[block], fine: event.shiftKey };
      focus(block);
      if (again) {
        setBlock(block, 1, drag.key);
        drag = null;
      } else if (curve) {
        drag.point = curve.grab(at, event.altKey);
      } else if (!drag.fine) {
        sweep(at, at);
      }
    });
    area.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const at = place(event);
      if (drag.point) curve.move(drag.point, at, drag.key);
      else if (curve) return;
      else if (drag.fine) setBlock(drag.block, rules.snap(drag.old + GENTLE * (at.value - drag.from.value), rules.FINE), drag.key);
      else sweep(drag.last, at);
      drag.last = at;
    });
    const end = () => { drag = null; };
    area.addEventListener("pointerup", end);
    area.addEventListener("pointercancel", end);
    area.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      if (event.pointerType && event.pointerType !== "mouse") return; // a finger that rests is drawing
      setBlock(columns[place(event).column], 0);
    });
    area.addEventListener("wheel", (event) => {
      if (!area.contains(document.activeElement)) return; // the page scrolls as long as no column is being worked on
      event.preventDefault();
      const block = columns[place(event).column], turned = event.deltaY || event.deltaX;
      if (turned) setBlock(block, rules.nudge(blocks.active().weights[block], turned < 0 ? 1 : -1, event.shiftKey ? rules.FINE : rules.STEP), `wheel-${block}`);
    }, { passive: false });

    function sweep(from, to) {
      const one = blocks.active(), locks = blocks.locked(), values = {};
      const [first, final] = [Math.min(from.column, to.column), Math.max(from.column, to.column)];
      for (let n = first; n <= final; n += 1) {
        const share = to.column === from.column ? 1 : (n - from.column) / (to.column - from.column);
        values[columns[n]] = rules.snap(from.value + share * (to.value - from.value));
      }
      chosen = columns[to.column];
      set(rules.put(one.weights, values, locks), t("Drawing"), drag.key);
    }
  }

  // A curve through a few points, over the columns of the UNet.

  function makeCurve() {
    const own = () => columns.filter((block) => block !== blocks.BASE && block !== blocks.OTHER);
    const offset = () => columns.indexOf(own()[0]);
    const values = own().map((block) => rules.clamp(blocks.active().weights[block]));
    const turns = (n) => n === 0 || n === values.length - 1 || (values[n] - values[n - 1]) * (values[n + 1] - values[n]) < 0
      || (values[n] !== values[n - 1]) !== (values[n + 1] !== values[n]);
    const points = values.map((value, n) => [n, value]).filter(([n]) => turns(n));
    const self = { points, offset, name: blocks.active().name, own };
    self.grab = (at, away) => {
      const n = at.column - offset();
      if (n < 0 || n >= own().length) return null;
      const there = points.find(([x]) => x === n);
      if (away && there) {
        if (points.length > 1) points.splice(points.indexOf(there), 1);
        self.apply(`drag-${drags}`);
        return null;
      }
      const point = there || [n, at.value];
      if (!there) points.push(point);
      self.move(point, at, `drag-${drags}`);
      return point;
    };
    self.move = (point, at, key) => {
      point[1] = rules.snap(at.value);
      self.apply(key);
    };
    self.apply = (key) => {
      const numbers = rules.through(points, own().length);
      set(rules.put(blocks.active().weights, Object.fromEntries(own().map((block, n) => [block, rules.snap(numbers[n], rules.FINE)])), blocks.locked()), t("Curve"), key);
    };
    return self;
  }

  // Keys

  function focus(block) {
    chosen = block;
    const column = parts && parts.columns.get(block);
    if (column) column.slider.focus({ preventScroll: true });
    blocks.redraw();
  }

  function typed(event, block) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const value = blocks.active().weights[block], step = event.shiftKey ? rules.FINE : rules.STEP, n = columns.indexOf(block);
    const moves = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5 };
    if (event.key in moves) setBlock(block, rules.nudge(value, moves[event.key], step), `key-${block}`);
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") focus(columns[Math.max(0, Math.min(columns.length - 1, n + (event.key === "ArrowLeft" ? -1 : 1)))]);
    else if (event.key === "Home" || event.key === "End") setBlock(block, event.key === "Home" ? rules.LOW : rules.HIGH);
    else if (event.key === "Delete" || event.key === "Backspace") setBlock(block, 0);
    else if (event.key.toLowerCase() === "l") lock(block);
    else if (/^[\d.,+-]$/.test(event.key)) {
      const field = parts.narrow ? parts.one.field : parts.columns.get(block).field;
      field.focus();
      field.value = event.key;
      field.dispatchEvent(new Event("input"));
      field.setSelectionRange(1, 1);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Handles that move several blocks together

  function handle(group) {
    const members = () => (group === "ALL" ? columns : blocks.topology().groups[group] || []).filter((block) => columns.includes(block));
    const text = () => (group === "ALL" ? t("All") : groupName(group));
    const element = make("button", { type: "button", class: "train-lora-blocks-handle", "data-group": group, title: group === "ALL" ? t("Drag up or down to move every block") : t("{what}. Drag up or down to move them together; click to choose them for the tools below.", { what: groupHelp(group) }) });
    let drag = null;
    const move = (by, key, step) => set(rules.shift(drag ? drag.weights : blocks.active().weights, members(), by, blocks.locked(), step), text(), key);
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      element.setPointerCapture(event.pointerId);
      drag = { y: event.clientY, weights: { ...blocks.active().weights }, key: `drag-${(drags += 1)}`, moved: false };
    });
    element.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const step = event.shiftKey ? rules.FINE : rules.STEP, high = parts.area.getBoundingClientRect().height || 240;
      const by = rules.tidy(step * Math.round(((drag.y - event.clientY) * SPAN * (event.shiftKey ? GENTLE : 1)) / high / step));
      if (!by && !drag.moved) return;
      drag.moved = true;
      move(by, drag.key, step);
    });
    element.addEventListener("pointerup", () => { const was = drag; drag = null; if (was && !was.moved) choose(); });
    element.addEventListener("pointercancel", () => { drag = null; });
    element.addEventListener("dblclick", () => all(1));
    element.addEventListener("contextmenu", (event) => { event.preventDefault(); if (!event.pointerType || event.pointerType === "mouse") all(0); });
    element.addEventListener("pointerenter", () => { state.hover = group; blocks.redraw(); });
    element.addEventListener("pointerleave", () => { state.hover = null; blocks.redraw(); });
    element.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (event.key === "Enter" || event.key === " ") choose();
      else if (by) move(by * (event.shiftKey ? rules.FINE : rules.STEP), `key-${group}`, event.shiftKey ? rules.FINE : rules.STEP);
      else return;
      event.preventDefault();
    });
    const choose = () => { scope = group === "ALL" || scope === group ? null : group; blocks.redraw(); };
    const all = (value) => set(rules.change(blocks.active().weights, members(), () => value, blocks.locked()), text());
    element.members = members;
    element.update = () => {
      say(element, parts.narrow && (group === "BASE" || group === "MID") ? group[0] : text());
      show(element, members().length > 0);
      mark(element, "aria-pressed", group === "ALL" ? !scope : scope === group);
    };
    return element;
  }

  // Built again when other columns are shown

  function build() {
    const box = make("section", { class: "train-lora-blocks-equaliser", "aria-label": t("Weight of each block") });
    const tool = (text, title, act) => blocks.button(text, act, { title, class: "train-lora-grid-button train-lora-blocks-tool" });
    const each = (label, act) => () => set(act(blocks.active().weights, inScope(), blocks.locked()), label);
    box.modes = make("span", { class: "train-lora-blocks-set", role: "group", "aria-label": t("How to draw") },
      box.free = tool(t("Freehand"), t("Draw across the columns"), () => { curve = null; blocks.redraw(); }),
      box.curve = tool(t("Curve"), t("A smooth curve through points: click to put one, drag to move it, Alt-click to take it away"), () => { curve = makeCurve(); blocks.redraw(); }));
    box.tools = make("span", { class: "train-lora-blocks-set", role: "group", "aria-label": t("Tools") },
      tool(t("All 1"), t("To 1: the LoRA as it was trained"), each(t("All 1"), (weights, chosenBlocks, locks) => rules.change(weights, chosenBlocks, () => 1, locks))),
      tool(t("All 0"), t("To 0: nothing of the LoRA"), each(t("All 0"), (weights, chosenBlocks, locks) => rules.change(weights, chosenBlocks, () => 0, locks))),
      tool(t("Weaker"), t("Times 0.9"), each(t("Weaker"), (weights, chosenBlocks, locks) => rules.scale(weights, chosenBlocks, 0.9, 0, locks))),
      tool(t("Stronger"), t("Times 1.1"), each(t("Stronger"), (weights, chosenBlocks, locks) => rules.scale(weights, chosenBlocks, 1.1, 0, locks))),
      tool(t("Invert"), t("1 − x: what is full becomes nothing, what is nothing becomes full"), each(t("Invert"), rules.invert)),
      tool(t("Mirror"), t("IN and OUT change places"), () => set(rules.mirror(blocks.active().weights, blocks.topology().partners, blocks.locked(), columns), t("Mirror"))));
    box.scope = make("span", { class: "train-lora-blocks-scope" });
    box.wide = make("label", { class: "train-lora-blocks-check" }, make("input", { type: "checkbox", onchange: (event) => { state.wide = event.target.checked; blocks.redraw(); } }), make("span", {}));
    box.top = make("div", { class: "train-lora-blocks-toolbar" }, box.modes, box.tools, box.scope, box.wide);
    box.body = make("div", { class: "train-lora-blocks-body" });
    box.sizes = make("div", { class: "train-lora-blocks-sizes" }, make("span", {}, t("Move together")));
    box.one = oneBlock();
    box.rule = make("p", { class: "train-lora-hint train-lora-blocks-rule" });
    box.text = numbersField();
    box.help = make("details", { class: "train-lora-help" }, make("summary", {}, t("How to use the columns")),
      make("p", {}, t("Drag across them to draw. Double-click sets 1, right-click 0. The wheel and the arrow keys move a column that was clicked by 0.05, with Shift by 0.01; type a number to set it. A click on a block's name locks it. Drag IN, OUT or a size up and down to move its blocks together, or click it to let the tools act on it alone.")),
      make("p", {}, t("BASE is how the words are understood. IN reads the picture from fine (64²) to coarse (8²), OUT draws it from coarse to fine: the coarse blocks carry what is where, the fine ones lines, colours and surfaces. 1 is the LoRA as it was trained, 0 nothing of it.")));
    box.append(box.top, box.body, box.sizes, box.one, box.text, box.rule, box.help);
    if (typeof ResizeObserver === "function") new ResizeObserver(() => { if (parts) { room(); blocks.redraw(); } }).observe(box);
    return box;
  }

  function room() {
    parts.narrow = parts.area.clientWidth / Math.max(1, columns.length) < NARROW;
    mark(parts.box, "data-narrow", parts.narrow);
  }

  function buildBody(box) {
    parts = { box, columns: new Map(), one: box.one };
    parts.marks = make("div", { class: "train-lora-blocks-marks", "aria-hidden": "true" }, MARKS.filter(Number.isInteger).map((value) => make("span", { style: `top: ${percent(value)}%` }, String(value))));
    parts.lines = blocks.svg("svg", { class: "train-lora-blocks-lines", preserveAspectRatio: "none", viewBox: `0 0 ${columns.length} ${SPAN}`, "aria-hidden": "true" });
    parts.area = make("div", { class: "train-lora-blocks-area" }, MARKS.map((value) => make("u", { style: `top: ${percent(value)}%`, "data-mark": value })),
      columns.map((block) => { const made = column(block); parts.columns.set(block, made); return made.slider; }), parts.lines);
    const groups = blocks.topology().groups, spans = ["BASE", "IN", "MID", "OUT"].map(handle);
    for (const span of spans) {
      const places = span.members().map((block) => columns.indexOf(block));
      if (places.length) span.style.gridColumn = `${Math.min(...places) + 1} / ${Math.max(...places) + 2}`;
    }
    const levels = Object.keys(groups).filter((name) => /^\d+$/.test(name)).sort((one, other) => other - one).map(handle);
    parts.handles = [...spans, handle("ALL"), ...levels];
    box.sizes.replaceChildren(box.sizes.firstChild, ...parts.handles.slice(spans.length));
    pointing(parts.area);
    box.body.style.setProperty("--columns", columns.length);
    return [make("div", { class: "train-lora-blocks-spans" }, spans), make("div", { class: "train-lora-blocks-plot" }, parts.marks, parts.area),
      make("div", { class: "train-lora-blocks-values" }, [...parts.columns.values()].map((made) => made.field)),
      make("div", { class: "train-lora-blocks-names" }, [...parts.columns.values()].map((made) => made.name)),
      parts.meters = make("div", { class: "train-lora-blocks-meters" })];
  }

  // What was measured, in rows below the columns.
  function drawMeters() {
    const rows = blocks.measures ? blocks.measures.meters() : [];
    lora.list(parts.meters, rows, (row) => row.key, (row) => make("div", { class: "train-lora-blocks-meter" }, make("span", {}), columns.map((block) => make(row.over ? "button" : "i", { type: row.over ? "button" : null, "aria-label": row.over ? `${block}, ${row.label}` : null,
      onpointerenter: row.over && (() => { if (!parts.kept) row.over(block); }), onpointerleave: row.over && (() => { if (!parts.kept) row.over(null); }),
      onclick: row.over && (() => { const it = `${row.key} ${block}`; parts.kept = parts.kept === it ? null : it; row.over(block); }) }))));
    rows.forEach((row, n) => {
      const [label, ...cells] = parts.meters.children[n].children;
      say(label, row.label);
      mark(label, "title", row.label);
      columns.forEach((block, place) => {
        const it = row.cell(block) || { bars: [], title: "" }, cell = cells[place];
        mark(cell, "title", it.title);
        mark(cell, "data-verdict", it.verdict || "");
        mark(cell, "data-lit", Boolean(it.lit));
        if (it.text !== undefined) say(cell, it.text);
        else {
          fill(cell, String(it.bars.length), () => it.bars.map(() => make("u")));
          it.bars.forEach(([share, colour], bar) => mark(cell.children[bar], "style", `height: ${Math.round(100 * share)}%; background: ${colour}`));
        }
      });
    });
  }

  // A field may be left after its LoRA was taken out.
  const weightOf = (block) => (blocks.active() ? blocks.active().weights[block] : null) ?? 1;

  function column(block) {
    const made = { bar: make("i"), knob: make("b"), ghost: make("s"), from: make("em") };
    made.slider = make("div", { class: "train-lora-blocks-column", role: "slider", tabindex: -1, "data-block": block, "aria-label": block, "aria-orientation": "vertical", "aria-valuemin": rules.LOW, "aria-valuemax": rules.HIGH,
      onkeydown: (event) => typed(event, block), onfocus: () => { chosen = block; blocks.redraw(); } }, made.bar, made.ghost, made.from, made.knob);
    made.field = blocks.numberField({ class: "train-lora-blocks-value", "aria-label": t("Weight of {block}", { block }), tabindex: -1 }, () => weightOf(block), (value) => setBlock(block, value, `type-${block}`));
    made.field.addEventListener("focus", () => { chosen = block; blocks.redraw(); });
    made.name = make("button", { type: "button", tabindex: -1, "data-block": block, onclick: () => lock(block) }, make("span", {}, block));
    return made;
  }

  // Where columns have no room for numbers: the block that was touched last, alone.
  function oneBlock() {
    const box = make("div", { class: "train-lora-blocks-one" });
    const step = (by) => () => setBlock(chosen, rules.nudge(blocks.active().weights[chosen], by), `key-${chosen}`);
    box.name = make("b", {});
    box.field = blocks.numberField({ "aria-label": t("Weight of the chosen block") }, () => weightOf(chosen), (value) => setBlock(chosen, value, `type-${chosen}`));
    box.lock = make("button", { type: "button", class: "train-lora-grid-button", onclick: () => lock(chosen) });
    box.append(box.name, blocks.button("−", step(-1), { "aria-label": t("Less") }), box.field, blocks.button("+", step(1), { "aria-label": t("More") }), blocks.button("0", () => setBlock(chosen, 0)), blocks.button("1", () => setBlock(chosen, 1)), box.lock);
    return box;
  }

  // The numbers as one text, both ways.
  function numbersField() {
    const field = make("input", { type: "text", spellcheck: "false", autocomplete: "off", "aria-label": t("All numbers of this LoRA") });
    const alarm = make("small", { class: "train-lora-grid-alarm", role: "alert", hidden: true });
    const box = make("label", { class: "train-lora-blocks-numbers" }, make("span", {}, t("Numbers")), field, alarm);
    field.addEventListener("input", () => {
      const read = readNumbers(field.value);
      say(alarm, read.problem || "");
      show(alarm, Boolean(read.problem));
      mark(field, "aria-invalid", Boolean(read.problem));
      if (!read.problem) set(rules.put(blocks.active().weights, read.weights, blocks.locked()), t("Numbers"), "type-numbers");
    });
    field.addEventListener("change", () => { show(alarm, false); mark(field, "aria-invalid", false); blocks.redraw(); });
    field.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "Escape") field.blur(); });
    box.update = () => {
      const text = blocks.toNumbers(blocks.active()).map(rules.formatNumber).join(",");
      if (document.activeElement !== field && field.value !== text) field.value = text;
    };
    return box;
  }

  function readNumbers(text) {
    const pieces = text.replace(/^[^:]*:/, "").split(/[,，;\s]+/).filter(Boolean), { blocks: all, attention } = blocks.topology();
    const numbers = pieces.map(rules.parseNumber), wrong = numbers.indexOf(null);
    if (wrong >= 0) return { problem: t("“{text}”, number {place}, is not a number.", { text: pieces[wrong], place: wrong + 1 }) };
    const weights = blocks.fromNumbers(numbers);
    return weights ? { weights: { ...weights, [blocks.OTHER]: blocks.active().weights[blocks.OTHER] } } : { problem: t("{count} numbers. It takes {few} or {many}.", { count: numbers.length, few: attention.length, many: all.length }) };
  }

  // What changes

  function draw(box) {
    const one = blocks.active();
    if (!one) return;
    columns = blocks.columns();
    if (!columns.includes(chosen)) chosen = columns[0];
    if (curve && curve.name !== one.name) curve = null;
    fill(box.body, JSON.stringify([columns, lora.language.code || ""]), () => buildBody(box));
    if (!parts) return;
    room();
    mark(box, "style", `--mix: ${blocks.colour(state.active)}`);
    const locks = blocks.locked(), from = blocks.origin(), proposal = (state.proposal && state.proposal[one.name]) || {};
    const hovered = state.hover && (state.hover === "ALL" ? columns : blocks.topology().groups[state.hover] || []);
    for (const [block, made] of parts.columns) {
      const value = one.weights[block], there = blocks.present(one.name, block), top = percent(Math.max(value, 0)), bottom = percent(Math.min(value, 0));
      made.bar.style.top = `${top}%`;
      made.bar.style.height = `${bottom - top}%`;
      made.knob.style.top = `${percent(value)}%`;
      mark(made.knob, "data-beyond", value > rules.HIGH ? "above" : value < rules.LOW ? "below" : "");
      const target = block in proposal ? proposal[block] : from && block in from.apart ? from.weights[block] : null;
      show(made.ghost, target !== null);
      if (target !== null) made.ghost.style.top = `${percent(target)}%`;
      mark(made.ghost, "data-kind", block in proposal ? "proposal" : "preset");
      show(made.from, block in proposal);
      if (block in proposal) {
        const [high, low] = [percent(Math.max(value, proposal[block])), percent(Math.min(value, proposal[block]))];
        made.from.style.top = `${high}%`;
        made.from.style.height = `${low - high}%`;
      }
      mark(made.slider, "aria-valuenow", value);
      mark(made.slider, "aria-valuetext", locks.has(block) ? t("{value}, locked", { value: rules.formatNumber(value) }) : rules.formatNumber(value));
      mark(made.slider, "tabindex", block === chosen ? 0 : -1);
      for (const element of [made.slider, made.name]) {
        mark(element, "data-absent", !there);
        mark(element, "data-locked", locks.has(block));
        mark(element, "data-chosen", block === chosen);
        mark(element, "data-lit", Boolean(hovered && hovered.includes(block)) || Boolean(scope && inScope().includes(block)));
      }
      made.field.update();
      made.field.disabled = locks.has(block);
      mark(made.field, "data-apart", Boolean(from && block in from.apart));
      mark(made.field, "title", from && block in from.apart ? `${from.name}: ${rules.formatNumber(from.weights[block])}` : "");
      mark(made.name, "title", !there ? t("{block}: this LoRA has nothing here", { block }) : locks.has(block) ? t("{block} is locked. Click to unlock.", { block }) : t("{block}: click to lock it", { block }));
      mark(made.name, "aria-pressed", locks.has(block));
    }
    drawLines(one);
    for (const element of parts.handles) element.update();
    mark(box.free, "aria-pressed", !curve);
    mark(box.curve, "aria-pressed", Boolean(curve));
    say(box.scope, scope ? t("Tools act on {group}", { group: groupName(scope) }) : "");
    drawRule(box, one);
    drawMeters();
    box.text.update();
    show(box.one, parts.narrow);
    say(box.one.name, chosen);
    box.one.field.update();
    say(box.one.lock, locks.has(chosen) ? t("Unlock") : t("Lock"));
  }

  // The curves of all LoRAs: the one in front bold, those behind thin with their points.
  function drawLines(one) {
    const path = (weights) => columns.map((block, n) => `${n ? "L" : "M"}${n + 0.5} ${(percent(weights[block]) * SPAN) / 100}`).join("");
    const dots = (points) => points.map(([x, y]) => `M${x} ${(percent(y) * SPAN) / 100}h0`).join("");
    const wanted = state.mix.loras.flatMap((other, index) => {
      if (other === one || other.hidden) return [];
      const colour = blocks.colour(index);
      return [[path(other.weights), colour, 1.5, "behind"], [dots(columns.map((block, n) => [n + 0.5, other.weights[block]])), colour, 6, "dots"]];
    });
    wanted.push([path(one.weights), "var(--mix)", 2, "front"]);
    if (curve) wanted.push([dots(curve.points.map(([x, y]) => [x + curve.offset() + 0.5, y])), "var(--body-text-color)", 12, "dots"], [dots(curve.points.map(([x, y]) => [x + curve.offset() + 0.5, y])), "var(--mix)", 7, "dots"]);
    const lines = parts.lines;
    while (lines.children.length > wanted.length) lines.lastChild.remove();
    wanted.forEach(([d, colour, width, kind], n) => {
      const line = lines.children[n] || lines.appendChild(blocks.svg("path", { fill: "none", "vector-effect": "non-scaling-stroke", "stroke-linecap": "round", "stroke-linejoin": "round" }));
      mark(line, "d", d);
      mark(line, "data-kind", kind);
      mark(line, "style", `stroke: ${colour}; stroke-width: ${width}px`);
    });
  }

  // What a short list doesn't name, said in the open.
  function drawRule(box, one) {
    const { blocks: all, attention } = blocks.topology(), rest = all.filter((block) => !attention.includes(block));
    const had = rest.filter((block) => blocks.detail(one.name) && blocks.detail(one.name).present && blocks.detail(one.name).present[block]);
    say(box.wide.lastChild, t("All {count} blocks", { count: all.length }));
    box.wide.firstChild.checked = state.wide || (had.length > 0 && columns.length >= all.length);
    box.wide.firstChild.disabled = had.length > 0;
    show(box.wide, rest.length > 0);
    show(box.rule, had.length > 0);
    fill(box.rule, JSON.stringify([had, state.unlisted, attention.length]), () => [
      t("This LoRA also has convolutions, in {count} blocks that a list of {few} numbers doesn't name. Such a list sets them to", { count: had.length, few: attention.length }), " ",
      make("select", { "aria-label": t("Blocks that a short list doesn't name"), onchange: (event) => { state.unlisted = Number(event.target.value); blocks.remember(); blocks.redraw(); } },
        make("option", { value: 0, selected: state.unlisted === 0 }, t("0, as LoRA Block Weight does")), make("option", { value: 1, selected: state.unlisted === 1 }, t("1, as kohya does")))]);
  }

  blocks.part("columns", "columns", { build, draw });
  Object.assign(blocks, { scope: () => scope });
})();

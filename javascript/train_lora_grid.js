// The Grid step: which epoch, at which weight. A table of pictures, one large, two compared, some accepted, one kept.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.grids) return;
  const { t, make, say, show, mark: attribute, fill, once, get, post, problems, message } = lora;

  const VIEW = "train_lora_grid_view", SIZE = "train-lora-grid-size";
  const [SMALLEST, USABLE, LEGIBLE, LARGEST, GAP, NARROW] = [40, 64, 104, 768, 4, 420]; // pixels
  const BLINK = 700; // milliseconds
  const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const EVERYTHING = -1; // the page that is all pages side by side

  let list = null, grid = null, wanted = "", byHand = false, page = 0, size = remembered(), picked = null, focus = { row: 0, column: 0 };
  let seen = "", asking = false, drawing = null, loadedAt = 0, loadedDone = 0, answer = null, parts = null, tables = [], open = null;
  const marks = new Map(); // what was clicked and isn't confirmed yet: "row/column" -> accepted

  // What is what

  const picture = ({ page: number, row, column }) => {
    const url = grid.pages[number] && grid.pages[number].cells[row] && grid.pages[number].cells[row][column];
    return url ? lora.API + url : null;
  };
  const stem = (path) => String(path).split(/[\\/]/).pop().replace(/\.(safetensors|ckpt|pt)$/i, "");
  const rowName = (row) => (grid.rows[row].epoch === null || grid.rows[row].epoch === undefined
    ? String(grid.rows[row].label) : t("Epoch {epoch}", { epoch: grid.rows[row].epoch }));
  const weight = (column) => String(Number(grid.weights[column].toFixed(4)));
  const cellName = ({ row, column }) => t("{epoch}, weight {weight}", { epoch: rowName(row), weight: weight(column) });
  const same = (one, other) => Boolean(one && other) && one.page === other.page && one.row === other.row && one.column === other.column;
  const prompted = (cell) => `${grid.pages[cell.page].prompt} <lora:${stem(grid.rows[cell.row].lora)}:${weight(cell.column)}>`.trim();
  const pages = () => (page === EVERYTHING ? grid.pages.map((_, number) => number) : [page]);
  // Why a cell can't be kept, or nothing.
  function unusable(cell) {
    if (grid.weights[cell.column] === 0) return t("This picture is drawn without the LoRA.");
    if (!picture(cell)) return t("There is no picture of this cell.");
    if (drawing && drawing.id === grid.id) return t("The grid is still being drawn.");
    return grid.rows[cell.row].exists === false ? t("The LoRA file isn't in its folder any more.") : "";
  }

  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

  function accepted({ row, column }) {
    const key = `${row}/${column}`;
    return marks.has(key) ? marks.get(key) : grid.marks.some(([r, c]) => r === row && c === column);
  }

  function acceptedCells() {
    const found = [];
    for (let row = 0; row < grid.rows.length; row += 1) {
      for (let column = 0; column < grid.weights.length; column += 1) {
        if (accepted({ row, column })) found.push({ page: Math.max(0, page), row, column });
      }
    }
    return found;
  }

  function moved(cell, rows, columns) {
    return { page: cell.page, row: clamp(cell.row + rows, 0, grid.rows.length - 1), column: clamp(cell.column + columns, 0, grid.weights.length - 1) };
  }

  function remembered() {
    try {
      const held = localStorage.getItem(SIZE);
      return held === "width" || held === "all" ? held : Number(held) || "";
    } catch { // a browser that keeps nothing
      return "";
    }
  }

  function resize(to) {
    size = to;
    try {
      localStorage.setItem(SIZE, String(to));
    } catch { /* a browser that keeps nothing */ }
    layout();
  }

  // Asking the server

  async function loadList() {
    asking = true;
    try {
      list = await get("grids");
      const shown = list.some((one) => one.id === wanted);
      if (!shown || !byHand) {
        const job = lora.status() && list.find((one) => one.id === lora.status().id);
        wanted = (job || list[0] || { id: "" }).id;
      }
      await loadGrid();
      complain(null);
    } catch (error) {
      seen = ""; // the next look asks again
      complain(error);
    } finally {
      asking = false;
      render();
    }
  }

  async function loadGrid() {
    loadedAt = Date.now();
    if (!wanted) {
      grid = null;
      return;
    }
    const asked = wanted, told = await get(`grids/${encodeURIComponent(asked)}`);
    if (asked === wanted) take(told);
  }

  function take(told) {
    if (!grid || grid.id !== told.id) {
      [page, picked, answer, focus] = [0, null, null, { row: 0, column: 0 }];
      marks.clear();
    }
    grid = told;
    if (page >= grid.pages.length) page = 0;
  }

  async function choose(id) {
    [wanted, byHand] = [id, true];
    try {
      await loadGrid();
      complain(null);
    } catch (error) {
      complain(error);
    }
    render();
  }

  function complain(error) {
    if (!parts) return;
    const text = error ? problems(error).join(" ") : "";
    say(parts.error, text);
    show(parts.error, Boolean(text));
  }

  // The mark is there at once, and gone again where the server can't keep it.
  async function accept(cell, on = !accepted(cell)) {
    const key = `${cell.row}/${cell.column}`, { id } = grid;
    marks.set(key, on);
    changed();
    let told = null, failure = null;
    try {
      told = await post(`grids/${encodeURIComponent(id)}/mark`, { row: cell.row, column: cell.column, accepted: on });
    } catch (error) {
      failure = error;
    }
    if (!grid || grid.id !== id || marks.get(key) !== on) return; // another grid, or clicked again meanwhile
    marks.delete(key);
    if (told) {
      grid.marks = grid.marks.filter(([row, column]) => row !== cell.row || column !== cell.column);
      if (on) grid.marks.push([cell.row, cell.column]);
    }
    complain(failure);
    if (failure && open) open.complain(problems(failure).join(" "));
    changed();
  }

  function changed() {
    if (!parts || !grid) return;
    drawAccepted();
    tables.forEach(drawCells);
    if (open) open.update();
  }

  // The step

  function build(element) {
    const made = {
      progress: make("div", { class: "train-lora-grid-progress", role: "status" }),
      error: make("p", { class: "train-lora-box", "data-kind": "error", role: "alert" }),
      empty: make("div", { class: "train-lora-empty" },
        make("strong", {}, t("There is no grid yet.")),
        make("span", {}, t("A grid shows every epoch at every weight, so that you can see which one to keep. It is drawn by itself after a training. For LoRA files that are already there, draw one with the fields below.")),
        make("span", {}, make("button", { type: "button", class: "train-lora-grid-button", onclick: () => lora.step("training") }, t("Go to Training")))),
      select: make("select", { "aria-label": t("Which grid is shown"), onchange: (event) => choose(event.target.value) }),
      newer: make("button", { type: "button", class: "train-lora-grid-button" }, t("Show the newest grid")),
      facts: make("span", { class: "train-lora-grid-facts" }),
      choice: make("section", { class: "train-lora-grid-choice", "aria-label": t("What is kept") }),
      accepted: make("section", { class: "train-lora-grid-accepted", "aria-label": t("Accepted") }),
      tabs: make("div", { class: "train-lora-grid-tabs", role: "group", "aria-label": t("Prompts") }),
      slider: make("input", { type: "range", min: SMALLEST, max: LARGEST, step: 4, "aria-label": t("Size of the pictures"), oninput: (event) => resize(Number(event.target.value)) }),
      all: make("button", { type: "button", class: "train-lora-grid-button", onclick: () => resize("all") }, t("Whole table")),
      width: make("button", { type: "button", class: "train-lora-grid-button", onclick: () => resize("width") }, t("Full width")),
      picking: make("p", { class: "train-lora-grid-picking", role: "status" }),
      tables: make("div", { class: "train-lora-grid-tables" }),
      help: make("p", { class: "train-lora-grid-help" }),
    };
    made.newer.addEventListener("click", () => choose(list[0].id));
    made.head = make("div", { class: "train-lora-grid-head" }, made.select, made.newer, made.facts);
    made.tools = make("div", { class: "train-lora-grid-tools" }, made.tabs,
      make("span", { class: "train-lora-grid-sizes" }, make("span", {}, t("Size")), made.slider, made.all, made.width));
    made.body = make("div", { class: "train-lora-grid-body" }, made.choice, made.accepted, made.tools, made.picking, made.tables, made.help);
    element.replaceChildren(made.progress, made.error, made.empty, made.head, made.body);
    [made.error, made.empty, made.head, made.body, made.progress].forEach((part) => show(part, false));
    if (typeof ResizeObserver === "function") new ResizeObserver(() => layout()).observe(made.tables);
    tables = [];
    return made;
  }

  function draw(status, element) {
    const before = parts;
    parts = once(element, build);
    if (parts !== before && list) render();
    const now = `${status.id} ${status.state}`;
    drawing = status.state === "grid" ? status : null;
    drawProgress(status);
    if (asking || !element.getClientRects().length) return;
    if (now !== seen) {
      seen = now;
      loadList();
    } else if (drawing && drawing.id === wanted) {
      const { done } = status.grid || { done: 0 }, waited = Date.now() - loadedAt;
      if (waited < (done === loadedDone ? 1900 : 400)) return;
      loadedDone = done;
      loadGrid().then(render, () => {});
    }
  }

  function drawProgress(status) {
    const told = (drawing && status.grid) || null;
    show(parts.progress, Boolean(drawing));
    if (!drawing) return;
    const name = status.name || t("the LoRA");
    const text = told && told.total
      ? t("Drawing the grid of {name}: {done} of {total} pictures.", { name, done: told.done, total: told.total })
      : t("Drawing the grid of {name}.", { name });
    if (!parts.progress.firstChild) parts.progress.append(make("span"), make("div", { class: "train-lora-bar" }, make("i")));
    const [words, bar] = parts.progress.children;
    say(words, text);
    attribute(bar, "data-unsure", !(told && told.total));
    bar.firstChild.style.width = told && told.total ? `${(100 * told.done) / told.total}%` : "";
  }

  function render() {
    if (!parts || !list) return;
    show(parts.empty, !list.length && !drawing);
    show(parts.head, list.length > 0);
    show(parts.body, Boolean(grid) && list.length > 0);
    if (!list.length) return;
    fill(parts.select, JSON.stringify([language(), list.map((one) => [one.id, one.name, one.rows, one.columns])]), () => list.map((one) => make("option", { value: one.id }, t("{name}, {date}: {rows} epochs × {columns} weights", { name: one.name || one.id, date: when(one.created || one.began), rows: one.rows, columns: one.columns }))));
    parts.select.value = wanted;
    show(parts.newer, byHand && wanted !== list[0].id);
    if (!grid) return;
    const facts = [grid.checkpoint, `${grid.width} × ${grid.height}`, t("seed {seed}", { seed: grid.seed }), t("{steps} steps", { steps: grid.steps }), grid.sampler, t("CFG {scale}", { scale: grid.cfg_scale })];
    say(parts.facts, facts.filter(Boolean).join(" · "));
    drawChoice();
    drawAccepted();
    drawTabs();
    drawTables();
    drawPicking();
    drawHelp();
    layout();
    if (open) open.update();
  }

  const language = () => (lora.find("train_lora") || document.documentElement).getAttribute("lang") || [];
  const when = (seconds) => new Date(1000 * (seconds || 0)).toLocaleString(language(), { dateStyle: "medium", timeStyle: "short" });

  function drawTabs() {
    const titles = grid.pages.map((one, number) => [number, t("Prompt {number}", { number: number + 1 }), one.prompt]);
    if (titles.length > 1) titles.push([EVERYTHING, t("Side by side"), ""]);
    show(parts.tabs, titles.length > 1);
    fill(parts.tabs, JSON.stringify(titles), () => titles.map(([number, title, prompt]) =>
      make("button", { type: "button", class: "train-lora-grid-button", "data-page": number, title: prompt || null, onclick: () => turn(number) }, title)));
    for (const button of parts.tabs.children) attribute(button, "aria-pressed", Number(button.dataset.page) === page);
  }

  function turn(number) {
    page = number;
    render();
  }

  function drawAccepted() {
    const cells = acceptedCells();
    show(parts.accepted, cells.length > 0);
    fill(parts.accepted, JSON.stringify([cells, cells.map(picture)]), () => [
      make("strong", {}, t("Accepted")),
      ...cells.map((cell) => make("span", { class: "train-lora-grid-chip" },
        make("button", { type: "button", onclick: () => enlarge(cell), title: t("Enlarge") }, thumb(cell), make("span", {}, cellName(cell))),
        make("button", { type: "button", class: "train-lora-grid-off", "aria-label": t("No longer accept {cell}", { cell: cellName(cell) }), title: t("No longer accept"), onclick: () => accept(cell, false) }, "×"))),
      cells.length === 2 && make("button", { type: "button", class: "train-lora-grid-button", onclick: () => compare(cells[0], cells[1]) }, t("Compare these two")),
    ]);
  }

  const thumb = (cell) => (picture(cell) ? make("img", { src: picture(cell), alt: "", loading: "lazy", style: `aspect-ratio: ${grid.width} / ${grid.height}` }) : null);

  function drawPicking() {
    show(parts.picking, Boolean(picked));
    if (!picked) return;
    fill(parts.picking, JSON.stringify(picked), () => [
      make("span", {}, t("{cell} is picked for comparing. Shift-click the other picture, or go to it and press C.", { cell: cellName(picked) })),
      make("button", { type: "button", class: "train-lora-grid-button", onclick: () => { picked = null; drawPicking(); tables.forEach(drawCells); } }, t("Cancel")),
    ]);
  }

  function drawHelp() {
    const epochs = grid.rows.filter((row) => row.in_band && row.epoch !== null && row.epoch !== undefined).map((row) => row.epoch);
    const gone = grid.rows.some((row) => row.exists === false), errors = grid.errors || [];
    const [first, last] = [Math.min(...epochs), Math.max(...epochs)];
    fill(parts.help, JSON.stringify([epochs, gone, errors]), () => [
      ...errors.map((text) => make("span", { class: "train-lora-grid-alarm" }, message(text))),
      epochs.length > 0 && make("span", {}, make("i", { class: "train-lora-grid-band" }), first === last
        ? t("Epoch {epoch} is the candidate: there the loss on held-out pictures is lowest. Look there first.", { epoch: first })
        : t("Epochs {first} to {last} are the candidates: there the loss on held-out pictures is lowest. Look there first.", { first, last })),
      gone && make("span", {}, t("Grey rows: the LoRA file isn't in its folder any more. Its pictures can still be looked at.")),
      make("span", {}, t("Click a picture to enlarge it; the circle in its corner marks it as accepted. Shift-click two pictures to compare them. With the keyboard: arrows, Enter, M marks, C compares.")),
    ]);
  }

  // The table

  function drawTables() {
    const numbers = pages(), several = numbers.length > 1;
    const key = JSON.stringify([grid.id, numbers, grid.weights, grid.width, grid.height, grid.rows.map((row) => [row.label, row.epoch, row.in_band, row.exists, row.lora]), grid.pages.map((one) => one.prompt)]);
    fill(parts.tables, key, () => {
      tables = numbers.map((number) => buildTable(number, several));
      tables.forEach((table) => table.scroll.addEventListener("scroll", () => follow(table), { passive: true }));
      return tables.map((table) => table.figure);
    });
    tables.forEach(drawCells);
  }

  function buildTable(number, several) {
    const table = { number, cells: [] };
    const head = make("tr", {}, make("td", { class: "train-lora-grid-corner" }, make("span", {}, t("weight")), make("span", {}, t("epoch"))),
      grid.weights.map((value, column) => make("th", { scope: "col" }, make("b", {}, weight(column)), value === 0 && make("small", {}, t("without")))));
    const rows = grid.rows.map((row, index) => {
      const cells = grid.weights.map((_, column) => buildCell({ page: number, row: index, column }));
      table.cells.push(cells);
      const epoch = row.epoch === null || row.epoch === undefined ? row.label : row.epoch;
      const title = `${stem(row.lora)}${row.exists === false ? `: ${t("the file isn't there any more")}` : ""}`;
      return make("tr", { "data-band": row.in_band ? "true" : null, "data-gone": row.exists === false ? "true" : null },
        make("th", { scope: "row", title, "aria-label": rowName(index) }, make("b", String(epoch) === stem(row.lora) ? { "data-as-it-is": true } : {}, String(epoch)), row.in_band && make("small", {}, t("candidate")), row.exists === false && make("small", {}, t("gone"))),
        cells.map((cell) => cell.td));
    });
    const body = make("table", { role: "grid", "aria-label": t("Epochs down, weights across"), onkeydown: typed }, make("thead", {}, head), make("tbody", {}, rows));
    table.scroll = make("div", { class: "train-lora-grid-scroll" }, body);
    const prompt = grid.pages[number].prompt;
    table.figure = make("figure", { class: "train-lora-grid-page", style: `--train-lora-shape: ${grid.width / grid.height}` },
      make("figcaption", {}, several ? t("Prompt {number}: {prompt}", { number: number + 1, prompt }) : t("Prompt: {prompt}", { prompt: prompt || t("none") })), table.scroll);
    return table;
  }

  function buildCell(at) {
    const cell = { at, url: null };
    cell.button = make("button", { type: "button", class: "train-lora-grid-cell", tabindex: -1, "data-at": `${at.page}/${at.row}/${at.column}`,
      onclick: (event) => { focus = at; if (event.shiftKey) pick(at); else enlarge(at); },
      onfocus: () => { focus = at; tables.forEach(drawFocus); } });
    cell.check = make("button", { type: "button", class: "train-lora-grid-check", tabindex: -1, onclick: () => accept(at) }, "✓");
    cell.td = make("td", {}, cell.button, cell.check);
    return cell;
  }

  function drawCells(table) {
    const still = drawing && drawing.id === grid.id;
    for (const cell of table.cells.flat()) {
      const [url, on] = [picture(cell.at), accepted(cell.at)];
      fill(cell.button, url || (still ? "soon" : "none"), () => [url ? make("img", { src: url, alt: "", loading: "lazy", decoding: "async", draggable: "false" }) : make("span", {}, still ? "…" : t("not drawn"))]);
      attribute(cell.td, "data-accepted", on);
      attribute(cell.td, "data-chosen", Boolean(grid.choice) && grid.choice.row === cell.at.row && grid.choice.column === cell.at.column);
      attribute(cell.td, "data-picked", same(cell.at, picked));
      attribute(cell.button, "aria-label", on ? t("{cell}, accepted", { cell: cellName(cell.at) }) : cellName(cell.at));
      show(cell.check, Boolean(url) || on);
      attribute(cell.check, "aria-pressed", on);
      attribute(cell.check, "aria-label", t("Accept {cell}", { cell: cellName(cell.at) }));
      attribute(cell.check, "title", on ? t("Accepted. Click to take it back.") : t("Mark as accepted"));
    }
    drawFocus(table);
  }

  // One cell of a table can be reached with Tab, the others from it with the arrows.
  function drawFocus(table) {
    for (const { button, at } of table.cells.flat()) attribute(button, "tabindex", at.row === focus.row && at.column === focus.column ? 0 : -1);
  }

  const cellAt = (at) => tables.flatMap((table) => table.cells.flat()).find((cell) => same(cell.at, at));

  function typed(event) {
    const at = event.target.dataset.at && event.target.dataset.at.split("/").map(Number);
    if (!at || event.ctrlKey || event.altKey || event.metaKey) return;
    const cell = { page: at[0], row: at[1], column: at[2] };
    if (MOVES[event.key]) go(moved(cell, ...MOVES[event.key]));
    else if (event.key === "Home" || event.key === "End") go(moved(cell, 0, event.key === "Home" ? -1e4 : 1e4));
    else if (event.key.toLowerCase() === "m") accept(cell);
    else if (event.key.toLowerCase() === "c") pick(cell);
    else if (["PageUp", "PageDown"].includes(event.key) && grid.pages.length > 1) {
      const to = clamp(cell.page + (event.key === "PageUp" ? -1 : 1), 0, grid.pages.length - 1);
      if (page !== EVERYTHING) turn(to);
      go({ ...cell, page: to });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function go(at) {
    const cell = cellAt(at);
    if (!cell) return;
    cell.button.focus({ preventScroll: true });
    cell.td.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // What scrolls one of several tables scrolls the others.
  function follow(table) {
    for (const other of tables) {
      if (other === table) continue;
      if (other.scroll.scrollLeft !== table.scroll.scrollLeft) other.scroll.scrollLeft = table.scroll.scrollLeft;
      if (other.scroll.scrollTop !== table.scroll.scrollTop) other.scroll.scrollTop = table.scroll.scrollTop;
    }
  }

  // How wide a picture is: as the slider says, or so that the table fits.
  function layout() {
    if (!parts || !grid || !tables.length || !parts.tables.clientWidth) return;
    const room = parts.tables.clientWidth, beside = Math.max(1, Math.min(tables.length, Math.floor(room / NARROW)));
    const table = tables[0].scroll.firstChild, header = table.rows[0];
    const [left, top] = [header.cells[0].offsetWidth, header.offsetHeight];
    const across = (room - 16 * (beside - 1)) / beside - left - 24;
    const down = 0.86 * window.innerHeight - top - 18;
    const most = clamp(Math.max(grid.width, 2 * LEGIBLE), SMALLEST, LARGEST);
    const wide = clamp(Math.floor(across / grid.weights.length) - GAP, beside > 1 ? SMALLEST : USABLE, most);
    const high = Math.floor(((down / grid.rows.length - GAP) * grid.width) / grid.height);
    const whole = clamp(Math.min(wide, high), SMALLEST, most);
    const fitting = size || (high >= Math.min(LEGIBLE, wide) && wide > USABLE ? "all" : "width");
    const width = fitting === "all" ? whole : fitting === "width" ? wide : clamp(fitting, SMALLEST, LARGEST);
    parts.tables.style.setProperty("--train-lora-cell", `${width}px`);
    parts.tables.style.setProperty("--train-lora-beside", beside);
    attribute(parts.tables, "data-small", width <= USABLE);
    if (parts.slider.value !== String(width)) parts.slider.value = String(width);
    attribute(parts.all, "aria-pressed", fitting === "all");
    attribute(parts.width, "aria-pressed", fitting === "width");
  }

  // Dialogs: modal, so that the browser keeps the focus inside, and deaf to the WebUI's own keys (Escape interrupts it)

  function dialog(name, label, onkey) {
    const box = make("dialog", { class: `train-lora-dialog ${name}`, "aria-label": label });
    const alarm = make("p", { class: "train-lora-grid-alarm", role: "alert", hidden: true });
    const outer = open;
    let ended = false;
    const self = { box, alarm, update() {}, closed() {}, complain(text) { say(alarm, text); show(alarm, Boolean(text)); }, close() { box.close(); end(); } };

    function end() {
      if (ended) return;
      ended = true;
      open = outer;
      box.remove();
      self.closed();
      if (outer) outer.update();
    }

    box.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (!event.ctrlKey && !event.altKey && !event.metaKey && onkey && onkey(event)) event.preventDefault();
    });
    box.addEventListener("mousedown", (event) => { if (event.target === box) self.close(); });
    box.addEventListener("close", end); // Escape
    self.show = () => {
      (lora.find("train_lora") || document.body).append(box);
      open = self;
      self.update();
      box.showModal();
    };
    return self;
  }

  const key = (letter) => make("kbd", {}, letter);
  const button = (text, onclick, more = {}, ...children) => make("button", { type: "button", class: "train-lora-grid-button", onclick, ...more }, text, ...children);

  // A swipe of a finger: [rows, columns] to move, or null.
  function swipes(element, act) {
    let from = null;
    element.addEventListener("pointerdown", (event) => { from = event.pointerType === "mouse" ? null : [event.clientX, event.clientY]; });
    element.addEventListener("pointercancel", () => { from = null; });
    element.addEventListener("pointerup", (event) => {
      if (!from) return;
      const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
      from = null;
      if (Math.max(Math.abs(x), Math.abs(y)) < 40) return;
      act(...(Math.abs(x) > Math.abs(y) ? [0, x < 0 ? 1 : -1] : [y < 0 ? 1 : -1, 0]));
    });
  }

  // A picture in its own proportions, at most twice its size (small ones larger), or the words that there is none.
  function place(frame, cell) {
    const url = picture(cell);
    if (!frame.firstChild) frame.append(make("img", { alt: "", draggable: "false" }), make("span", {}, t("not drawn")));
    const [image, words] = frame.children;
    show(image, Boolean(url));
    show(words, !url);
    attribute(image, "alt", cellName(cell));
    if (url && image.getAttribute("src") !== url) image.setAttribute("src", url);
    frame.style.setProperty("--train-lora-most", `${Math.max(2 * grid.width, 640)}px`);
    frame.style.setProperty("--train-lora-shape", grid.width / grid.height);
    attribute(frame, "data-accepted", accepted(cell));
  }

  function ahead(cell) {
    for (const [rows, columns] of Object.values(MOVES)) {
      const url = picture(moved(cell, rows, columns));
      if (url) new Image().src = url;
    }
  }

  // One picture large

  function enlarge(start) {
    let cell = start;
    const to = (next) => { cell = next; self.update(); ahead(cell); };
    const step = (rows, columns) => to(moved(cell, rows, columns));
    const leaf = (by) => to({ ...cell, page: clamp(cell.page + by, 0, grid.pages.length - 1) });
    const self = dialog("train-lora-large", t("The picture enlarged"), (event) => {
      if (MOVES[event.key]) step(...MOVES[event.key]);
      else if (event.key === "PageUp" || event.key === "PageDown") leaf(event.key === "PageUp" ? -1 : 1);
      else if (event.key.toLowerCase() === "m") accept(cell);
      else if (event.key.toLowerCase() === "c") choosePair();
      else if (event.key.toLowerCase() === "u" && !keep.disabled) use(cell);
      else return false;
      return true;
    });
    const title = make("strong", {}), where = make("span", {}), prompt = make("p", { class: "train-lora-grid-prompt" });
    const frame = make("div", { class: "train-lora-grid-frame" });
    const check = button("", () => accept(cell), { class: "train-lora-grid-button train-lora-grid-accept" });
    const pair = button("", choosePair), keep = button(t("Use this"), () => use(cell), { class: "train-lora-grid-button train-lora-grid-primary" });
    const link = make("a", { target: "_blank", rel: "noopener", class: "train-lora-grid-button" }, t("Open the file"));
    const arrows = Object.entries({ ArrowUp: ["▲", t("One epoch earlier")], ArrowLeft: ["◀", t("A smaller weight")], ArrowRight: ["▶", t("A larger weight")], ArrowDown: ["▼", t("One epoch later")] })
      .map(([name, [sign, words]]) => button(sign, () => step(...MOVES[name]), { class: `train-lora-grid-button train-lora-grid-arrow train-lora-grid-${name.slice(5).toLowerCase()}`, "aria-label": words, title: words, "data-key": name }));
    const map = make("div", { class: "train-lora-grid-map", "aria-hidden": "true", style: `grid-template-columns: repeat(${grid.weights.length}, 1fr)` },
      grid.rows.flatMap((_, row) => grid.weights.map((_, column) => make("i", { onclick: () => to({ ...cell, row, column }) }))));
    const leaves = make("span", { class: "train-lora-grid-leaves" }, button("‹", () => leaf(-1), { "aria-label": t("Previous prompt"), title: t("Previous prompt") }), button("›", () => leaf(1), { "aria-label": t("Next prompt"), title: t("Next prompt") }));

    function choosePair() {
      if (picked && !same(picked, cell)) {
        const first = picked;
        self.close();
        compare(first, cell);
      } else {
        picked = same(picked, cell) ? null : cell;
        self.update();
      }
    }

    self.update = () => {
      const on = accepted(cell);
      say(title, cellName(cell));
      say(where, [grid.pages.length > 1 ? t("prompt {number} of {count}", { number: cell.page + 1, count: grid.pages.length }) : "", t("seed {seed}", { seed: grid.seed }), stem(grid.rows[cell.row].lora)].filter(Boolean).join(" · "));
      say(prompt, grid.pages[cell.page].prompt);
      place(frame, cell);
      fill(check, String(on), () => [make("span", {}, on ? t("Accepted") : t("Accept")), key("M")]);
      attribute(check, "aria-pressed", on);
      const other = picked && !same(picked, cell);
      fill(pair, other ? cellName(picked) : String(Boolean(picked)), () => [make("span", {}, other ? t("Compare with {cell}", { cell: cellName(picked) }) : picked ? t("Picked: go to the other one") : t("Compare with …")), key("C")]);
      keep.disabled = Boolean(unusable(cell));
      attribute(keep, "title", unusable(cell) || t("Keep this epoch at this weight"));
      show(link, Boolean(picture(cell)));
      if (picture(cell)) attribute(link, "href", picture(cell));
      for (const arrow of arrows) arrow.disabled = same(moved(cell, ...MOVES[arrow.dataset.key]), cell);
      show(leaves, grid.pages.length > 1);
      [leaves.firstChild.disabled, leaves.lastChild.disabled] = [cell.page === 0, cell.page === grid.pages.length - 1];
      [...map.children].forEach((dot, index) => {
        const at = { row: Math.floor(index / grid.weights.length), column: index % grid.weights.length };
        attribute(dot, "data-accepted", accepted(at));
        attribute(dot, "data-here", at.row === cell.row && at.column === cell.column);
      });
    };
    self.closed = () => {
      focus = cell;
      if (page !== EVERYTHING && page !== cell.page) turn(cell.page); else render();
      if (!open) go(cell);
    };
    self.box.append(
      make("div", { class: "train-lora-grid-top" }, map, make("div", { "aria-live": "polite" }, title, where), leaves, button("×", self.close, { class: "train-lora-grid-button train-lora-grid-close", "aria-label": t("Close"), title: t("Close") })),
      make("div", { class: "train-lora-grid-stage" }, frame, ...arrows),
      make("div", { class: "train-lora-grid-foot" }, prompt, self.alarm, make("div", {}, check, pair, keep, link)));
    swipes(frame, step);
    self.show();
    check.focus();
    ahead(cell);
  }

  // Two pictures

  function pick(cell) {
    if (!picked || same(picked, cell)) picked = picked ? null : cell;
    else {
      compare(picked, cell);
      return;
    }
    drawPicking();
    tables.forEach(drawCells);
  }

  function compare(one, other) {
    picked = null;
    const cells = [one, other];
    let mode = "side", active = 1, shown = 0, cut = 50, clock = 0;
    const self = dialog("train-lora-compare", t("Two pictures compared"), (event) => {
      const letter = event.key.toLowerCase();
      if (MOVES[event.key] && !event.target.matches("input[type=range]")) step(...MOVES[event.key]);
      else if (letter === "b" || (event.key === " " && mode === "blink" && !event.target.matches("button, input"))) blink();
      else if (letter === "s") enter("side", true);
      else if (letter === "w") enter("slider", true);
      else if (letter === "x") { cells.reverse(); self.update(); }
      else if (letter === "m") accept(cells[active]);
      else if (letter === "1" || letter === "2") activate(Number(letter) - 1);
      else return false;
      return true;
    });
    const frames = [0, 1].map(() => make("div", { class: "train-lora-grid-frame" }));
    const names = [0, 1].map((side) => button("", () => activate(side), { class: "train-lora-grid-button train-lora-grid-name", "data-side": side }));
    const checks = [0, 1].map((side) => button("", () => accept(cells[side]), { class: "train-lora-grid-button train-lora-grid-accept" }));
    const keeps = [0, 1].map((side) => button(t("Use this"), () => use(cells[side])));
    const modes = { side: button(t("Side by side"), () => enter("side"), {}, key("S")), slider: button(t("Slider"), () => enter("slider"), {}, key("W")), blink: button(t("Blink"), () => { enter("blink"); }, {}, key("B")) };
    const range = make("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, "aria-label": t("How much of the first picture is shown"), oninput: () => slide(Number(range.value)) });
    const by = make("input", { type: "checkbox", onchange: () => automatic(by.checked) });
    const itself = make("label", { class: "train-lora-grid-itself" }, by, t("by itself"));
    const bar = make("i", { class: "train-lora-grid-cut" });
    const stage = make("div", { class: "train-lora-grid-stage" }, frames, bar);

    function step(rows, columns) {
      cells[active] = moved(cells[active], rows, columns);
      self.update();
      ahead(cells[active]);
    }

    function activate(side) {
      active = side;
      if (mode === "blink") shown = side;
      self.update();
    }

    function enter(to, typed = false) {
      mode = to;
      if (typed) modes[to].focus();
      if (mode !== "blink") automatic(false);
      self.update();
    }

    function blink() {
      if (mode === "blink") shown = 1 - shown;
      else {
        mode = "blink";
        modes.blink.focus();
      }
      active = shown;
      self.update();
    }

    function automatic(on) {
      clearInterval(clock);
      by.checked = on;
      if (on) clock = setInterval(blink, BLINK);
    }

    function slide(to) {
      cut = clamp(to, 0, 100);
      self.update();
    }

    self.update = () => {
      attribute(stage, "data-mode", mode);
      for (const [name, chooser] of Object.entries(modes)) attribute(chooser, "aria-pressed", name === mode);
      cells.forEach((cell, side) => {
        place(frames[side], cell);
        attribute(frames[side], "data-behind", mode === "blink" && shown !== side);
        frames[side].style.clipPath = mode === "slider" ? (side ? `inset(0 0 0 ${cut}%)` : `inset(0 ${100 - cut}% 0 0)`) : "";
        const on = accepted(cell);
        fill(names[side], JSON.stringify([cell, side]), () => [key(side + 1), make("span", {}, grid.pages.length > 1 ? t("{cell}, prompt {number}", { cell: cellName(cell), number: cell.page + 1 }) : cellName(cell))]);
        attribute(names[side], "aria-pressed", active === side);
        attribute(names[side], "data-shown", mode === "blink" && shown === side);
        fill(checks[side], String(on), () => [on ? t("Accepted") : t("Accept")]);
        attribute(checks[side], "aria-pressed", on);
        keeps[side].disabled = Boolean(unusable(cell));
        attribute(keeps[side], "title", unusable(cell) || t("Keep this epoch at this weight"));
      });
      show(range, mode === "slider");
      show(bar, mode === "slider");
      show(itself, mode === "blink");
      bar.style.left = `${cut}%`;
      if (range.value !== String(cut)) range.value = String(cut);
    };
    self.closed = () => {
      clearInterval(clock);
      render();
      if (!open) go(cells[active]);
    };
    const drag = (event) => { if (mode === "slider" && event.buttons & 1) { const box = stage.getBoundingClientRect(); slide((100 * (event.clientX - box.left)) / box.width); } };
    stage.addEventListener("pointerdown", (event) => { drag(event); if (mode === "blink") blink(); });
    stage.addEventListener("pointermove", drag);
    self.box.append(
      make("div", { class: "train-lora-grid-top" }, make("div", { class: "train-lora-grid-modes", role: "group", "aria-label": t("How to compare") }, Object.values(modes), itself), range, button("×", self.close, { class: "train-lora-grid-button train-lora-grid-close", "aria-label": t("Close"), title: t("Close") })),
      stage,
      make("div", { class: "train-lora-grid-foot" }, self.alarm, make("div", { class: "train-lora-grid-sides" }, [0, 1].map((side) => make("div", {}, names[side], checks[side], keeps[side]))),
        make("p", { class: "train-lora-grid-keys" }, t("Arrows move the chosen picture through epochs and weights. 1 and 2 choose it, X swaps the two, M marks."))));
    self.show();
    modes.side.focus();
    cells.forEach(ahead);
  }

  // Keeping one

  function use(cell) {
    const row = grid.rows[cell.row], name = stem(row.lora), others = grid.rows.filter((one, index) => index !== cell.row && one.exists !== false).length;
    const self = dialog("train-lora-use", t("Keep this epoch at this weight"));
    const words = make("input", { type: "text", value: trigger(cell), autocomplete: "off", spellcheck: "false" });
    const drop = make("input", { type: "checkbox" });
    const keep = make("button", { type: "submit", class: "train-lora-grid-button train-lora-grid-primary" }, t("Use this"));
    const send = async (event) => {
      event.preventDefault();
      keep.disabled = true;
      self.complain("");
      try {
        const told = await post(`grids/${encodeURIComponent(grid.id)}/use`, { row: cell.row, column: cell.column, page: cell.page, drop_others: drop.checked, activation_text: words.value.trim() });
        answer = { ...told, cell };
        take(told.grid);
        while (open) open.close();
        render();
        parts.choice.scrollIntoView({ block: "nearest" });
        parts.choice.querySelector("button").focus({ preventScroll: true });
      } catch (error) {
        keep.disabled = false;
        if (error && error.detail === undefined) throw error;
        self.complain(problems(error).join(" "));
      }
    };
    self.box.append(make("form", { onsubmit: send },
      make("h3", {}, t("Keep {lora} at weight {weight}", { lora: name, weight: weight(cell.column) })),
      make("div", { class: "train-lora-grid-keep" }, make("img", { src: picture(cell), alt: "" }),
        make("p", {}, t("The LoRA's card in the WebUI gets this picture, this weight and the activation text. They are written beside the LoRA file, into {preview} and {card}.", { card: `${name}.json`, preview: `${name}.png` }))),
      make("label", {}, make("span", {}, t("Activation text")), words, make("small", {}, t("What the WebUI puts into the prompt when you click the LoRA's card, along with the weight. Usually the trigger word."))),
      others > 0 && make("label", { class: "train-lora-grid-drop" }, drop, make("span", {}, others === 1 ? t("Move the other epoch into the folder “other epochs”") : t("Move the other {count} epochs into the folder “other epochs”", { count: others }), make("small", {}, t("Nothing is deleted, and it can be undone.")))),
      self.alarm,
      make("div", { class: "train-lora-grid-ends" }, button(t("Cancel"), self.close), keep)));
    self.show();
    words.focus();
    words.select();
  }

  // The trigger word as the grid knows it, otherwise the prompt's first tag.
  function trigger(cell) {
    const known = grid.activation_text || grid.trigger || (grid.choice && grid.choice.activation_text);
    return known || grid.pages[cell.page].prompt.split(/[,，\n]/)[0].trim();
  }

  function drawChoice() {
    const choice = grid.choice;
    show(parts.choice, Boolean(choice) || Boolean(answer && answer.restored));
    fill(parts.choice, JSON.stringify([choice, answer, grid.dropped]), () => (choice || answer ? toldChoice(choice) : []));
  }

  function toldChoice(choice) {
    if (!choice) return [make("div", {}, make("span", {}, back(answer.restored)))];
    const cell = { page: choice.page || 0, row: choice.row, column: choice.column };
    const said = make("span", { role: "status" });
    const lines = [];
    if (answer && answer.written && answer.written.length) lines.push(t("Written beside it: {files}.", { files: answer.written.map(file).join(", ") }));
    const gone = ((answer && answer.moved) || []).map(file).filter((name) => name.endsWith(".safetensors"));
    if (gone.length) lines.push(t("Moved into the folder “other epochs”: {files}.", { files: gone.join(", ") }));
    else if (grid.dropped) lines.push(t("The other epochs are in the folder “other epochs”."));
    if (answer && answer.restored) lines.push(back(answer.restored));
    const field = lora.page().querySelector("#txt2img_prompt textarea");
    return [
      picture(cell) && make("button", { type: "button", class: "train-lora-grid-kept", title: t("Enlarge"), "aria-label": t("Enlarge"), onclick: () => enlarge(cell) }, make("img", { src: picture(cell), alt: "" })),
      make("div", {},
        make("strong", {}, t("{lora} at weight {weight} is kept.", { lora: stem(choice.lora), weight: Number(Number(choice.weight).toFixed(4)) })),
        lines.map((line) => make("span", {}, line)),
        make("div", { class: "train-lora-grid-row" },
          button(t("Copy prompt"), async () => say(said, (await lora.copy(prompted(cell), parts.choice)) ? t("Copied: {text}", { text: prompted(cell) }) : t("The browser doesn't allow copying. The prompt is: {text}", { text: prompted(cell) }))),
          field && typeof updateInput === "function" && button(t("Send to txt2img"), () => sendTo(field, prompted(cell))),
          button(t("Tune blocks"), () => tune(cell)),
          grid.dropped > 0 && button(t("Undo the moving"), undo)),
        said)];
  }

  const file = (path) => String(path).split(/[\\/]/).pop();
  const back = (files) => (files.length ? t("Back in their folder: {files}.", { files: files.map(file).filter((name) => name.endsWith(".safetensors")).join(", ") }) : t("Nothing was to be moved back."));

  async function undo() {
    try {
      const told = await post(`grids/${encodeURIComponent(grid.id)}/undo`, {});
      take(told.grid);
      answer = { restored: told.moved, moved: [] };
      complain(null);
    } catch (error) {
      complain(error);
    }
    render();
  }

  function sendTo(field, text) {
    field.value = text;
    updateInput(field);
    if (typeof switch_to_txt2img === "function") switch_to_txt2img();
  }

  function tune(cell) {
    document.dispatchEvent(new CustomEvent("train-lora:open-blocks", { detail: { job: grid.id, row: cell.row, column: cell.column, page: cell.page } }));
    lora.step("blocks");
  }

  window.addEventListener("resize", () => layout());
  lora.grids = { show: (id) => choose(id) };
  lora.register("grid", { id: VIEW, draw });
})();

// The history: every try with its picture, numbers, note and star, in the order of time, branches below each other.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.lanes) return;
  const { t, make, say, show, mark, list, fill } = lora;
  const [WIDE, HIGH, MIDDLE] = [104, 138, 46]; // pixels of a card's place, and where its line meets it
  const boards = () => blocks.boards;

  // Each try's lane: that of the try that it comes from, or the first that is free from there on.
  function lanes(tries) {
    const placed = new Map(), ends = []; // ends: the last column of each lane
    tries.forEach((one, column) => {
      const from = placed.get(one.parent), start = from ? from.column : column;
      let lane = from && ends[from.lane] === from.column ? from.lane : ends.findIndex((end) => end < start);
      if (lane < 0) lane = ends.length;
      ends[lane] = column;
      placed.set(one.id, { column, lane, from });
    });
    return { placed, count: ends.length };
  }

  // What changed; of which LoRA goes without saying where there is one.
  function brief(it) {
    const name = it.mix.loras.length === 1 ? it.mix.loras[0].name : "";
    return inWords(name && it.label.startsWith(`${name} `) ? it.label.slice(name.length + 1) : it.label);
  }

  // A label as the server writes it: `Miro 2 blocks, OUT04–OUT05, cfg scale`.
  function inWords(label) {
    const scene = {
      prompt: t("Prompt"), "negative prompt": t("Negative prompt"), prompts: t("Prompts"), seeds: t("Seeds"), steps: t("Steps"), "cfg scale": t("CFG scale"),
      sampler: t("Sampler"), width: t("Width"), height: t("Height"), "clip skip": t("Clip skip"),
    };
    return label.split(", ").map((part) => (part in scene ? scene[part].toLowerCase() : part.replace(/(^| )(\d+) blocks$/, (_, gap, count) => gap + t("{count} blocks", { count })))).join(", ");
  }

  function card(one) {
    const image = make("img", { alt: "", loading: "lazy", draggable: "false" });
    const box = make("button", { type: "button", class: "train-lora-blocks-try", "data-try": one.id, onclick: (event) => {
      const it = boards().find(one.id);
      if (it && event.shiftKey) { boards().pinned = one.id; blocks.redraw(); } else if (it) boards().go(it);
    } }, image, make("span", {}), make("small", {}));
    box.update = (it, { column, lane }) => {
      const url = boards().thumbOf(it, Math.max(0, boards().placeOf(it))) || boards().thumbOf(it), count = (it.pictures || []).length;
      if (url) mark(image, "src", url);
      box.style.left = `${column * WIDE}px`;
      box.style.top = `${lane * HIGH}px`;
      say(box.children[1], [it.id, it.star ? "★" : "", count > 1 ? `×${count}` : ""].filter(Boolean).join(" "));
      say(box.children[2], it.note || brief(it) || (it.parent ? "" : t("start")));
      mark(box, "title", [t("Try {number}", { number: it.id }), inWords(it.label), count > 1 ? t("{count} pictures", { count }) : "", it.note].filter(Boolean).join("\n"));
      mark(box, "aria-current", it.id === boards().at);
      mark(box, "data-pinned", it.id === boards().pinned);
      mark(box, "data-star", Boolean(it.star));
    };
    return box;
  }

  function build() {
    const box = make("section", { class: "train-lora-blocks-history", "aria-label": t("History of the tries") });
    box.lines = blocks.svg("svg", { class: "train-lora-blocks-branches", "aria-hidden": "true" });
    box.cards = make("div", { class: "train-lora-blocks-cards" });
    box.field = make("div", { class: "train-lora-blocks-tree" }, box.lines, box.cards);
    box.scroll = make("div", { class: "train-lora-blocks-scroll", onkeydown: (event) => typed(event, box) }, box.field);
    box.stars = make("label", { class: "train-lora-blocks-check" }, make("input", { type: "checkbox", onchange: blocks.redraw }), t("Only ★"));
    box.hint = make("span", { class: "train-lora-hint" }, t("Click a try to go back to its numbers; what you change from there is a branch. Shift-click compares it."));
    box.star = blocks.button("", () => { const one = boards().find(boards().at); boards().change(one, { star: !one.star }); });
    box.note = make("input", { type: "text", placeholder: t("A note"), "aria-label": t("A note to this try"), onchange: () => { const one = boards().find(boards().at); if (one) boards().change(one, { note: box.note.value.trim() }); } });
    box.compare = blocks.button(t("Compare with this"), () => { boards().pinned = boards().at; blocks.redraw(); });
    box.away = blocks.button(t("Remove"), () => boards().remove(boards().find(boards().at)));
    box.back = make("span", { class: "train-lora-blocks-set", hidden: true }, make("span", {}, t("A try is removed.")), blocks.button(t("Put it back"), () => boards().restore()));
    box.name = make("b", {});
    box.details = make("div", { class: "train-lora-blocks-line" }, box.name, box.star, box.note, box.compare, box.away, box.back);
    box.append(make("div", { class: "train-lora-blocks-line" }, make("b", {}, t("History")), box.hint, box.stars), box.scroll, box.details);
    return box;
  }

  function typed(event, box) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], cards = [...box.cards.children];
    if (!by || !cards.includes(event.target)) return;
    const next = cards[cards.indexOf(event.target) + by];
    if (next) next.focus();
    event.preventDefault();
  }

  let last = null;

  function draw(box) {
    drawHead();
    const { board, find, at } = boards(), all = board ? board.tries : [], starred = box.stars.querySelector("input").checked;
    const tries = starred ? all.filter((one) => one.star || one.id === at) : all;
    show(box, all.length > 0 || boards().removed);
    if (box.hidden) return;
    const { placed, count } = lanes(tries);
    list(box.cards, tries, (one) => one.id, card);
    tries.forEach((one, n) => box.cards.children[n].update(one, placed.get(one.id)));
    box.field.style.width = `${tries.length * WIDE}px`;
    box.field.style.height = `${Math.max(1, count) * HIGH}px`;
    drawLines(box.lines, tries, placed, count);
    const one = find(at);
    show(box.details, Boolean(one) || boards().removed);
    for (const element of [box.name, box.star, box.note, box.compare, box.away]) show(element, Boolean(one));
    show(box.back, Boolean(boards().removed));
    show(box.stars, all.some((it) => it.star));
    if (one) {
      say(box.name, [t("Try {number}", { number: one.id }), brief(one)].filter(Boolean).join(" · "));
      say(box.star, one.star ? t("★ Starred") : t("☆ Star"));
      mark(box.star, "aria-pressed", Boolean(one.star));
      if (document.activeElement !== box.note && box.note.value !== one.note) box.note.value = one.note || "";
    }
    if (at !== last && one) {
      last = at;
      const { column, lane } = placed.get(at) || { column: 0, lane: 0 }, { scroll } = box;
      if ((lane + 1) * HIGH > scroll.scrollTop + scroll.clientHeight || lane * HIGH < scroll.scrollTop) scroll.scrollTop = (lane + 1) * HIGH - scroll.clientHeight;
      if ((column + 1) * WIDE > scroll.scrollLeft + scroll.clientWidth || column * WIDE < scroll.scrollLeft) scroll.scrollLeft = (column + 1) * WIDE - scroll.clientWidth / 2;
    }
  }

  function drawLines(lines, tries, placed, count) {
    const paths = tries.map((one) => placed.get(one.id)).filter(({ from }) => from).map(({ column, lane, from }) => {
      const [x, y] = [column * WIDE + 2, lane * HIGH + MIDDLE], [left, top] = [from.column * WIDE + WIDE - 10, from.lane * HIGH + MIDDLE];
      return from.lane === lane ? `M${left} ${top}H${x}` : `M${left} ${top}h5V${y - 5}q0 5 5 5H${x}`; // down between two cards
    });
    mark(lines, "width", tries.length * WIDE);
    mark(lines, "height", Math.max(1, count) * HIGH);
    const [line] = lines.children.length ? lines.children : [lines.appendChild(blocks.svg("path", { fill: "none" }))];
    mark(line, "d", paths.join(""));
  }

  // Which board, at the head of the step

  function drawHead() {
    const place = blocks.head(), { board } = boards();
    const all = boards().all.map((one) => (board && board.id === one.id ? { ...one, name: board.name, tries: board.tries.length } : one));
    if (!place) return;
    const parts = lora.once(place, buildHead);
    show(place, all.length > 0 || Boolean(boards().gone));
    show(parts.fresh, blocks.state.mix.loras.length > 0);
    fill(parts.select, JSON.stringify([all.map((one) => [one.id, one.name, one.tries]), Boolean(board), blocks.state.mix.loras.length > 0]), () => [...(board ? [] : [make("option", { value: "" }, blocks.state.mix.loras.length ? t("New, not drawn yet") : t("Earlier work …"))]), ...all.map((one) => make("option", { value: one.id }, one.tries === 1 ? t("{name}, 1 try", { name: one.name }) : t("{name}, {count} tries", { name: one.name, count: one.tries })))]);
    if (document.activeElement !== parts.select) parts.select.value = board ? board.id : "";
    for (const button of [parts.rename, parts.remove]) show(button, Boolean(board));
    show(parts.back, Boolean(boards().gone));
  }

  function buildHead(place) {
    const parts = { select: make("select", { "aria-label": t("Board"), onchange: (event) => { if (event.target.value) boards().open(event.target.value); } }) };
    parts.fresh = blocks.button(t("New"), () => boards().leave(), { title: t("Begin with other LoRAs; this history is kept") });
    parts.rename = make("button", { type: "button", class: "train-lora-blocks-small", title: t("Rename the board"), "aria-label": t("Rename the board"), onclick: () => { parts.field.value = boards().board.name; show(parts.naming, true); parts.field.focus(); parts.field.select(); } }, "✎");
    parts.remove = make("button", { type: "button", class: "train-lora-blocks-small", title: t("Remove the board with its history"), "aria-label": t("Remove the board with its history"), onclick: () => boards().removeBoard() }, "×");
    parts.field = make("input", { type: "text", "aria-label": t("Name of the board") });
    const send = () => { show(parts.naming, false); if (parts.field.value.trim()) boards().rename(parts.field.value.trim()); };
    parts.field.addEventListener("keydown", (event) => { if (event.key === "Enter") send(); if (event.key === "Escape") show(parts.naming, false); });
    parts.naming = make("span", { class: "train-lora-blocks-set", hidden: true }, parts.field, blocks.button(t("Rename"), send));
    parts.back = make("span", { class: "train-lora-blocks-set" }, make("span", {}, t("The board is removed.")), blocks.button(t("Put it back"), () => boards().restoreBoard()));
    place.replaceChildren(parts.select, parts.rename, parts.remove, parts.naming, parts.fresh, parts.back);
    return parts;
  }

  blocks.part("tries", "tries", { build, draw });
  Object.assign(blocks, { lanes });
})();

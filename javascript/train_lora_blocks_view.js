// The frame of the Blocks step: where its parts stand, what is loaded when it is first seen, undo, paste and copy.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.draw) return;
  const { t, make, say, show, mark, fill, once, problems, post } = lora;
  const { state } = blocks;

  const VIEW = "train_lora_blocks_view";
  const PLACES = ["start", "loras", "presets", "columns", "advice", "picture", "tries", "bake", "measures"];
  const ANSWERED = 4000; // milliseconds for which a short answer stands
  let parts = null, loading = null, clock = 0;

  const button = (text, onclick, more = {}, ...children) => make("button", { type: "button", class: "train-lora-grid-button", onclick, ...more }, text, ...children);
  const key = (letter) => make("kbd", {}, letter);

  function svg(tag, attributes = {}, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // A field for a number: told while it is typed, put right when it is left.
  function numberField(attributes, read, write) {
    const field = make("input", { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false", ...attributes });
    const wrong = (is) => field.setAttribute("aria-invalid", String(is));
    const value = () => blocks.rules.parseNumber(field.value.replace(",", "."));
    const step = (event, by) => { event.preventDefault(); write(blocks.rules.nudge(read(), by, event.shiftKey ? blocks.rules.FINE : blocks.rules.STEP)); field.value = blocks.rules.formatNumber(read()); };
    field.addEventListener("input", () => { wrong(value() === null); if (value() !== null) write(value()); });
    field.addEventListener("change", () => { field.value = blocks.rules.formatNumber(read()); wrong(false); });
    field.addEventListener("focus", () => field.select());
    field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowUp" || event.key === "ArrowDown") step(event, event.key === "ArrowUp" ? 1 : -1);
      if (event.key === "Enter" || event.key === "Escape") field.blur();
    });
    field.update = () => {
      const text = blocks.rules.formatNumber(read());
      if (document.activeElement !== field && field.value !== text) field.value = text;
    };
    return field;
  }

  function build(element) {
    const made = { error: make("p", { class: "train-lora-box", "data-kind": "error", role: "alert", title: t("Click to put it away"), hidden: true, onclick: () => complain(null) }), answer: make("span", { class: "train-lora-blocks-answer", role: "status" }) };
    for (const place of PLACES) made[place] = make("div", { class: `train-lora-blocks-${place}` });
    made.undo = button("↶", blocks.undo, { "aria-label": t("Undo"), title: t("Undo") });
    made.redo = button("↷", blocks.redo, { "aria-label": t("Redo"), title: t("Redo") });
    made.paste = button(t("Paste …"), () => openPaste(), { title: t("A prompt, a picture's text, a recipe, or numbers") });
    made.copies = make("span", { class: "train-lora-blocks-set", role: "group", "aria-label": t("Copy") }, make("span", {}, t("Copy")),
      button(t("Prompt"), () => copyText("prompt"), { title: t("For the prompt of txt2img, with the numbers of every block") }),
      button(t("Bake recipe"), () => copyText("recipe"), { title: t("NAME:STRENGTH:NUMBERS, as the bake and SuperMerger read it") }),
      button(t("Numbers"), () => copyText("numbers"), { title: t("Of the LoRA in front, with commas") }));
    made.board = make("span", { class: "train-lora-blocks-set" });
    made.head = make("div", { class: "train-lora-blocks-head" }, made.board, make("span", { class: "train-lora-blocks-set" }, made.undo, made.redo), made.paste, made.copies, made.answer);
    made.pasted = buildPaste();
    made.left = make("div", { class: "train-lora-blocks-left" }, made.loras, made.columns, made.presets);
    made.right = make("div", { class: "train-lora-blocks-right" }, made.picture, made.advice);
    made.main = make("div", { class: "train-lora-blocks-main" }, made.left, made.right);
    made.folds = make("div", { class: "train-lora-blocks-folds" },
      fold("measures", t("Measure: what does each block do?"), made.measures), fold("bake", t("Bake: make one file of it"), made.bake));
    element.replaceChildren(made.head, made.pasted.box, made.error, made.start, made.main, made.tries, made.folds);
    for (const part of blocks.parts) part.element = null;
    element.addEventListener("keydown", typed);
    element.addEventListener("paste", (event) => {
      if (event.target.closest("input, textarea")) return;
      event.preventDefault();
      openPaste(event.clipboardData.getData("text"));
    });
    return made;
  }

  function fold(name, title, inside) {
    return make("details", { class: "train-lora-blocks-fold", "data-fold": name, ontoggle: blocks.redraw }, make("summary", {}, title), inside);
  }

  const opened = (name) => Boolean(parts && parts.folds.querySelector(`[data-fold=${name}]`).open);

  function openFold(name) {
    const box = parts.folds.querySelector(`[data-fold=${name}]`);
    box.open = true;
    box.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  function typed(event) {
    if (event.key === "Escape") event.stopPropagation(); // it interrupts the WebUI
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && state.mix.loras.length) {
      event.preventDefault();
      event.stopPropagation();
      blocks.boards.tryNow();
    }
    if (!(event.ctrlKey || event.metaKey) || event.altKey || event.target.closest("textarea, input")) return;
    const letter = event.key.toLowerCase();
    if (letter !== "z" && letter !== "y") return;
    event.preventDefault();
    event.stopPropagation();
    if (letter === "y" || event.shiftKey) blocks.redo();
    else blocks.undo();
  }

  // Loading

  async function load() {
    try {
      const [families] = await Promise.all([lora.get("blocks/families"), blocks.loadFiles(), blocks.loadPresets()]);
      state.families = families;
      const kept = blocks.remembered();
      if (kept && kept.loras && !state.mix.loras.length) take(kept);
      if (!kept) await sceneOfGrid();
      if (blocks.openBoard) await blocks.openBoard(kept ? kept.board : undefined);
      complain(null);
      state.ready = true;
    } catch (error) {
      complain(error);
      loading = null; // the next look asks again
    }
    blocks.redraw();
  }

  // The scene of the newest grid: what its maker looks at anyway.
  async function sceneOfGrid() {
    const [newest] = await lora.get("grids");
    if (!newest) return;
    const grid = await lora.get(`grids/${encodeURIComponent(newest.id)}`);
    const same = ["negative_prompt", "steps", "cfg_scale", "sampler", "width", "height"].filter((name) => grid[name] !== undefined && grid[name] !== null);
    Object.assign(state.mix.shot, Object.fromEntries(same.map((name) => [name, grid[name]])), { prompt: (grid.pages[0] || {}).prompt || "", seeds: [grid.seed] });
  }

  function take(kept) {
    const there = new Set(state.files.map((one) => one.name));
    state.mix.loras = kept.loras.filter((one) => there.has(one.name));
    state.mix.shot = { ...state.mix.shot, ...kept.shot };
    state.active = Math.max(0, Math.min(kept.active || 0, state.mix.loras.length - 1));
    [state.locks, state.origins, state.unlisted] = [kept.locks || {}, kept.origins || {}, kept.unlisted || 0];
    state.mix.loras.forEach((one) => blocks.learn(one.name));
  }

  function complain(error) {
    state.failed = error;
    if (!parts) return;
    const text = error ? problems(error).join("\n") : "";
    say(parts.error, text);
    show(parts.error, Boolean(text));
  }

  function answer(text) {
    if (!parts) return;
    say(parts.answer, text);
    clearTimeout(clock);
    clock = setTimeout(() => say(parts.answer, ""), ANSWERED);
  }

  // Drawing

  function drawView(status, element) {
    const before = parts;
    parts = once(element, build);
    if (!loading && element.getClientRects().length) loading = load();
    if (parts !== before || element.getClientRects().length) draw();
  }

  function draw() {
    if (!parts || !lora.find(VIEW)) return;
    const some = state.mix.loras.length > 0, ready = Boolean(state.families);
    complain(state.failed);
    show(parts.start, ready && !some);
    for (const element of [parts.main, parts.folds]) show(element, ready && some);
    show(parts.tries, ready);
    show(parts.head, ready);
    show(parts.copies, some);
    [parts.undo.disabled, parts.redo.disabled] = [!blocks.done.length, !blocks.undone.length];
    const next = (list) => (list.length ? list[list.length - 1].label : "");
    mark(parts.undo, "title", blocks.done.length ? t("Undo: {what} (Ctrl+Z)", { what: next(blocks.done) }) : t("Nothing to undo"));
    mark(parts.redo, "title", blocks.undone.length ? t("Redo: {what} (Ctrl+Y)", { what: next(blocks.undone) }) : t("Nothing to redo"));
    if (!ready) return;
    for (const part of blocks.parts) {
      const place = parts[part.place];
      if (!part.element || !part.element.isConnected) {
        part.element = part.build();
        place.append(part.element);
      }
      if (!place.hidden) part.draw(part.element);
    }
  }

  // Copying and pasting

  async function copyText(what) {
    try {
      const told = await post("blocks/text", { mix: blocks.told() });
      const text = what === "numbers" ? told.numbers[state.active] : what === "prompt" ? told.prompt : told.recipe;
      const done = await lora.copy(text, parts.head);
      complain(what === "prompt" && told.prompt_problem ? { status: 422, detail: [{ what: told.prompt_problem }] } : null);
      if (done) answer(t("Copied: {text}", { text }));
      else showText(text);
    } catch (error) {
      complain(error);
    }
  }

  function showText(text) {
    openPaste(text);
    parts.pasted.area.select();
  }

  function buildPaste() {
    const made = { area: make("textarea", { rows: 4, spellcheck: "false", "aria-label": t("What to paste"), placeholder: t("<lora:my-lora:1:lbw=GP1>   or   my-lora:1:GP1,other:-1:GP2   or   1,0.6,0.9,0.9,… (17 numbers)") }), alarm: make("p", { class: "train-lora-grid-alarm", role: "alert", hidden: true }) };
    made.box = make("div", { class: "train-lora-blocks-paste", hidden: true },
      make("p", { class: "train-lora-hint" }, t("A prompt, the text of a picture, a recipe, a line of a preset file, or numbers alone: for the LoRA in front.")),
      made.area, made.alarm,
      make("span", { class: "train-lora-blocks-set" }, button(t("Put it in"), takePaste, { class: "train-lora-grid-button train-lora-grid-primary" }), button(t("Cancel"), closePaste)));
    made.area.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) takePaste();
      if (event.key === "Escape") closePaste();
    });
    return made;
  }

  function openPaste(text = "") {
    parts.pasted.area.value = text;
    show(parts.pasted.alarm, false);
    show(parts.pasted.box, true);
    parts.pasted.area.focus();
    if (text.trim()) takePaste();
  }

  function closePaste() {
    show(parts.pasted.box, false);
    parts.paste.focus({ preventScroll: true });
  }

  async function takePaste() {
    const { area, alarm } = parts.pasted;
    try {
      const told = await post("blocks/parse", { text: area.value, family: state.mix.loras.length ? blocks.family() : null });
      takeParsed(told.loras);
      closePaste();
    } catch (error) {
      if (error && error.detail === undefined) throw error;
      say(alarm, problems(error).join("\n"));
      show(alarm, true);
    }
  }

  // Numbers without a name are for the LoRA in front; named LoRAs are the new mix.
  function takeParsed(items) {
    const named = items.filter((one) => one.name);
    if (named.length) {
      blocks.replace(t("Paste"), { loras: named });
      answer(t("Pasted: {names}.", { names: named.map((one) => blocks.stem(one.name)).join(", ") }));
      return;
    }
    const one = blocks.active();
    if (!one) throw { status: 422, detail: [{ what: t("Numbers alone need a LoRA to be put on"), remedy: t("Choose one first") }] };
    blocks.edit(t("Paste"), () => {
      one.weights = blocks.rules.put(one.weights, items[0].weights, blocks.locked());
      if (items[0].preset && blocks.preset(items[0].preset)) state.origins[one.name] = items[0].preset;
    });
  }

  Object.assign(blocks, { draw, button, key, svg, numberField, answer, complain, openPaste, opened, openFold, head: () => parts && parts.board });

  // From the grid's kept cell: its LoRA at its weight, with the prompt and seed that its picture was drawn with.
  document.addEventListener("train-lora:open-blocks", (event) => { blocks.asked = event.detail; if (loading) loading.then(() => blocks.openAsked && blocks.openAsked()); });

  lora.register("blocks", { id: VIEW, draw: drawView });
})();

// The picture of the present numbers: the newest try, a first small look before it, and another one to compare it with.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.stage) return;
  const { t, make, say, show, mark, fill, message } = lora;
  const { state } = blocks;
  const SAMPLERS = ["Euler", "Euler a", "DDIM", "DPM++ 2M"]; // as the grid's; a scene may bring others
  const [BLINK, MOST_SEED] = [700, 2 ** 32 - 1]; // milliseconds
  let mode = "slider", cut = 50, front = 1, clock = 0, heat = null;
  const boards = () => blocks.boards;

  // Fields of the scene

  function shotField(name, label, element, read, write, more = {}) {
    const box = make("label", { class: "train-lora-blocks-field", ...more }, make("span", {}, label), element);
    element.addEventListener(element.matches("textarea, [type=text]") ? "input" : "change", () => {
      const value = write(element.value);
      mark(element, "aria-invalid", value === null);
      if (value === null || JSON.stringify(state.mix.shot[name]) === JSON.stringify(value)) return;
      state.mix.shot[name] = value;
      blocks.remember();
      blocks.redraw();
    });
    if (element.matches("[type=text]")) element.addEventListener("change", () => { mark(element, "aria-invalid", false); element.value = read(state.mix.shot[name]); });
    box.update = () => {
      const text = read(state.mix.shot[name]);
      if (document.activeElement !== element && element.value !== text) element.value = text;
    };
    return box;
  }

  const text = (value) => String(value ?? "");
  function numberIn(low, high, whole = true) {
    return (typed) => {
      const value = Number(typed.replace(",", "."));
      return typed.trim() && value >= low && value <= high && (!whole || Number.isInteger(value)) ? value : null;
    };
  }

  function seedsIn(typed) {
    const seeds = typed.split(/[\s,，;]+/).filter(Boolean).map(Number);
    return seeds.length && seeds.every((seed) => Number.isInteger(seed) && seed >= 0 && seed <= MOST_SEED) ? [...new Set(seeds)] : null;
  }

  const side = (typed) => { const value = numberIn(64, 2048)(typed); return value === null ? null : Math.round(value / 8) * 8; };
  const plain = (more = {}) => make("input", { type: "text", inputmode: "numeric", autocomplete: "off", ...more });

  function buildShot(box) {
    const samplers = make("select", {}, SAMPLERS.map((name) => make("option", { value: name }, name)));
    const unknown = (name) => { if (![...samplers.options].some((one) => one.value === name)) samplers.append(make("option", { value: name }, name)); return name; };
    box.fields = [
      shotField("prompt", t("Prompt"), make("textarea", { rows: 2, spellcheck: "false", placeholder: t("What the picture shows, with the trigger word. The LoRAs on the left are added by themselves.") }), text, (typed) => typed),
      shotField("negative_prompt", t("Negative prompt"), make("textarea", { rows: 1, spellcheck: "false" }), text, (typed) => typed),
      shotField("seeds", t("Seeds"), plain({ title: t("One picture for each, with commas between them") }), (seeds) => seeds.join(", "), seedsIn),
      shotField("steps", t("Steps"), plain(), text, numberIn(1, 150)),
      shotField("cfg_scale", t("CFG scale"), plain({ inputmode: "decimal" }), text, numberIn(1, 30, false)),
      shotField("width", t("Width"), plain(), text, side),
      shotField("height", t("Height"), plain(), text, side),
      shotField("clip_skip", t("Clip skip"), plain(), text, numberIn(1, 12)),
      shotField("sampler", t("Sampler"), samplers, unknown, (name) => name),
    ];
    const [prompt, negative, seeds, ...rest] = box.fields;
    box.prompts = make("div", { class: "train-lora-blocks-prompts" });
    box.another = make("button", { type: "button", class: "train-lora-link", onclick: () => { state.mix.shot.prompts.push(""); blocks.redraw(); requestAnimationFrame(() => { const [last] = [...box.prompts.querySelectorAll("textarea")].slice(-1); if (last) last.focus(); }); } }, t("+ Another prompt"));
    box.count = make("p", { class: "train-lora-hint", role: "status" });
    box.dice = blocks.button(t("Other seed"), () => { state.mix.shot.seeds = [Math.floor(Math.random() * MOST_SEED)]; blocks.touched(); blocks.boards.tryNow(); }, { title: t("A random one, drawn at once") });
    box.tags = make("p", { class: "train-lora-hint" }, t("The prompt has LoRAs of its own."), " ", make("button", { type: "button", class: "train-lora-link", onclick: () => fromPrompt() }, t("Put them on the left")));
    return [prompt, box.tags, box.prompts, box.another, make("div", { class: "train-lora-blocks-seeds" }, seeds, box.dice), box.count,
      make("details", { class: "train-lora-help" }, make("summary", {}, t("Negative prompt, steps, size …")), negative, make("div", { class: "train-lora-blocks-fields" }, rest))];
  }

  // Further prompts: each has a field of its own, as a prompt may have line breaks.
  function drawPrompts(box) {
    const { shot } = state.mix;
    lora.list(box.prompts, shot.prompts.map((_, n) => n), (n) => n, promptField);
    [...box.prompts.children].forEach((one) => one.update());
    const count = boards().scenes(blocks.told()).length, time = boards().seconds(count), many = count > boards().MOST;
    box.another.disabled = count >= boards().MOST || shot.prompts.some((prompt) => !prompt.trim());
    show(box.count, count > 1);
    mark(box.count, "data-kind", many ? "warning" : "");
    say(box.count, many ? t("{count} pictures are too many for one try: at most {most}. Take out prompts or seeds.", { count, most: boards().MOST }) : [t("{count} pictures a try: each prompt with each seed", { count }), time ? t("about {time}", { time: lora.duration(time) }) : ""].filter(Boolean).join(", "));
    return many;
  }

  function promptField(n) {
    const area = make("textarea", { rows: 2, spellcheck: "false", "aria-label": t("Prompt {number}", { number: n + 2 }), placeholder: t("Another prompt, drawn with the same seeds") });
    area.addEventListener("input", () => { state.mix.shot.prompts[n] = area.value; blocks.remember(); blocks.redraw(); });
    const away = make("button", { type: "button", class: "train-lora-blocks-small", title: t("Take this prompt out"), "aria-label": t("Take this prompt out"), onclick: () => { state.mix.shot.prompts.splice(n, 1); blocks.remember(); blocks.redraw(); } }, "×");
    const box = make("div", { class: "train-lora-blocks-field train-lora-blocks-prompt" }, area, away);
    box.update = () => { const text = state.mix.shot.prompts[n]; if (area.value !== text) area.value = text; };
    return box;
  }

  function fromPrompt() {
    blocks.guarded(async () => {
      const told = await lora.post("blocks/parse", { text: state.mix.shot.prompt });
      blocks.replace(t("LoRAs of the prompt"), { loras: told.loras, shot: { prompt: told.prompt ?? state.mix.shot.prompt } });
    });
  }

  // The stage: one picture, or two above or beside each other

  function frame() {
    const image = make("img", { alt: "", draggable: "false" });
    const box = make("div", { class: "train-lora-blocks-frame" }, image);
    let wanted = "";
    // What is there stays until the next one has come, so that nothing flickers.
    box.put = (url, alt) => {
      mark(image, "alt", alt || "");
      if (url === wanted) return;
      wanted = url;
      if (!url) {
        image.removeAttribute("src");
        return;
      }
      const next = new Image();
      next.onload = () => { if (wanted === url) image.src = url; };
      next.src = url;
    };
    return box;
  }

  function build() {
    const box = make("section", { class: "train-lora-blocks-look", "aria-label": t("The picture") });
    box.first = frame();
    box.second = frame();
    box.heat = [make("img", { class: "train-lora-blocks-heat", alt: "", hidden: true }), make("img", { class: "train-lora-blocks-heat", alt: t("Where the block acts"), hidden: true })];
    box.cut = make("i", { class: "train-lora-blocks-cut" });
    box.empty = make("p", { class: "train-lora-blocks-nothing" });
    box.badge = make("span", { class: "train-lora-blocks-badge" });
    box.stage = make("div", { class: "train-lora-blocks-canvas" }, box.first, box.second, ...box.heat, box.cut, box.empty, box.badge);
    box.bar = make("div", { class: "train-lora-bar", "data-unsure": "true", hidden: true }, make("i"));
    box.thumbs = make("div", { class: "train-lora-blocks-thumbs" });
    box.scene = make("p", { class: "train-lora-hint train-lora-blocks-scene" });
    const modes = { slider: t("Slider"), blink: t("Blink"), side: t("Side by side") };
    box.modes = Object.entries(modes).map(([name, label]) => blocks.button(label, () => enter(name), { "data-mode": name, class: "train-lora-grid-button train-lora-blocks-tool" }));
    box.range = make("input", { type: "range", min: 0, max: 100, step: 0.5, "aria-label": t("How much of A is shown"), oninput: () => { cut = Number(box.range.value); blocks.redraw(); } });
    box.about = make("span", { class: "train-lora-hint" });
    box.unpin = blocks.button(t("End comparing"), () => { boards().pinned = null; blocks.redraw(); }, { class: "train-lora-grid-button train-lora-blocks-tool" });
    box.compare = make("div", { class: "train-lora-blocks-compare" }, make("div", { class: "train-lora-blocks-set" }, box.modes, box.unpin), box.range, box.about);
    box.status = make("span", { class: "train-lora-hint", role: "status" });
    box.try = blocks.button(t("Draw the picture"), () => boards().tryNow(), { class: "train-lora-grid-button train-lora-grid-primary", title: t("With these numbers (Ctrl+Enter)") });
    box.stop = blocks.button(t("Stop"), () => boards().stop());
    box.pin = blocks.button(t("Compare from here"), () => { boards().pinned = boards().shown; blocks.redraw(); }, { title: t("Keeps this picture as A; what is drawn next is B") });
    box.live = make("label", { class: "train-lora-blocks-live" }, make("input", { type: "checkbox", role: "switch", onchange: (event) => { boards().live = event.target.checked; if (event.target.checked) boards().tryNow(); blocks.redraw(); } }), t("Live while I move"));
    box.error = make("p", { class: "train-lora-grid-alarm", role: "alert", hidden: true });
    box.append(box.stage, box.bar, box.thumbs, box.scene, box.compare, make("div", { class: "train-lora-blocks-set" }, box.try, box.live, box.pin, box.stop), box.status, box.error, ...buildShot(box));
    const drag = (event) => {
      if (!comparing() || mode !== "slider" || !(event.buttons & 1)) return;
      const at = box.stage.getBoundingClientRect();
      cut = Math.max(0, Math.min(100, (100 * (event.clientX - at.left)) / at.width));
      blocks.redraw();
    };
    box.stage.addEventListener("pointerdown", (event) => { if (comparing() && mode === "slider") box.stage.setPointerCapture(event.pointerId); drag(event); if (comparing() && mode === "blink") flip(); else if (!comparing()) enlarge(); });
    box.stage.addEventListener("pointermove", drag);
    return box;
  }

  function enter(name) {
    mode = name;
    clearInterval(clock);
    front = 1;
    if (name === "blink") clock = setInterval(() => { if (comparing() && mode === "blink") flip(); else clearInterval(clock); }, BLINK);
    blocks.redraw();
  }

  function flip() {
    front = 1 - front;
    blocks.redraw();
  }

  const comparing = () => { const { pinned, shown } = boards(); return Boolean(boards().find(pinned)) && (pinned !== shown || boards().underWay()); };

  function enlarge() {
    const url = boards().pictureOf(boards().looked());
    if (!url || !HTMLDialogElement.prototype.showModal) return;
    const box = make("dialog", { class: "train-lora-dialog train-lora-blocks-large", "aria-label": t("The picture enlarged") }, make("img", { src: url, alt: "" }));
    box.addEventListener("click", () => box.close());
    box.addEventListener("keydown", (event) => event.stopPropagation()); // Escape interrupts the WebUI
    box.addEventListener("close", () => box.remove());
    lora.find("train_lora").append(box);
    box.showModal();
  }

  function draw(box) {
    // What is drawn just now, as soon as there is anything of it; else the try that was chosen.
    const it = boards().looked(), { find, pictureOf, underWay, scenes } = boards(), base = boards().board;
    const pinned = comparing() ? find(boards().pinned) : null, running = boards().now && boards().now.running;
    const count = it ? Math.max(1, (it.pictures || []).length) : 0, { shot } = it ? it.mix : state.mix;
    if (boards().picture >= count) boards().picture = Math.max(0, count - 1);
    box.stage.style.setProperty("--shape", shot.width / shot.height);
    mark(box.stage, "data-mode", pinned ? mode : "one");
    box.first.put(pinned ? pictureOf(pinned, partner(pinned)) : null, t("Picture A"));
    show(box.first, Boolean(pinned));
    box.second.put(pictureOf(it), it ? t("Try {number}", { number: it.id }) : "");
    show(box.second, Boolean(it));
    box.first.style.clipPath = pinned && mode === "slider" ? `inset(0 ${100 - cut}% 0 0)` : "";
    box.second.style.clipPath = pinned && mode === "slider" ? `inset(0 0 0 ${cut}%)` : "";
    mark(box.first, "data-behind", Boolean(pinned) && mode === "blink" && front === 1);
    mark(box.second, "data-behind", Boolean(pinned) && mode === "blink" && front === 0);
    box.cut.style.left = `${cut}%`;
    show(box.cut, Boolean(pinned) && mode === "slider");
    box.heat.forEach((image, n) => {
      show(image, Boolean(heat));
      if (heat) mark(image, "src", n ? heat.over : heat.under);
    });
    const draft = it && running && it.id === running.id && !(it.pictures || [])[boards().picture];
    say(box.badge, heat ? t("Where {block} acts", { block: heat.block }) : pinned ? (mode === "blink" ? (front ? "B" : "A") : "A | B") : draft ? t("first look") : "");
    show(box.badge, Boolean(box.badge.textContent));
    const renders = !lora.status() || !lora.status().host || (lora.status().host.capabilities || ["render"]).includes("render");
    say(box.empty, !renders ? t("This host can't draw pictures here.") : underWay() ? t("Drawing …") : t("Press “Draw the picture” to see what these numbers do."));
    show(box.empty, !it);
    show(box.bar, underWay());
    drawThumbs(box, it, count, scenes);
    show(box.compare, Boolean(pinned));
    for (const one of box.modes) mark(one, "aria-pressed", one.dataset.mode === mode);
    show(box.range, mode === "slider");
    if (box.range.value !== String(cut)) box.range.value = String(cut);
    if (pinned) say(box.about, aboutPair(pinned, it));
    show(box.pin, Boolean(find(boards().shown)) && boards().pinned !== boards().shown);
    show(box.stop, underWay());
    box.try.disabled = drawPrompts(box) || !renders || boards().asking;
    box.live.firstChild.checked = boards().live;
    say(box.status, told(it, running, base));
    say(box.error, message(boards().failure));
    show(box.error, Boolean(boards().failure));
    for (const field of box.fields) field.update();
    show(box.tags, /<(lora|lyco):/.test(state.mix.shot.prompt));
  }

  function told(it, running, base) {
    const { waiting } = boards().now || {};
    if (running) return waiting ? t("Drawing; newer numbers come next.") : t("Drawing …");
    if (boards().now && boards().now.busy) return t("Another picture is being drawn first.");
    if (waiting) return t("Waiting …");
    if (!it || !base) return "";
    if (boards().pinned === it.id) return t("Try {number} is A. Change something and draw it, or click another try, to see B beside it.", { number: it.id });
    const same = JSON.stringify(it.mix.loras.map(essence)) === JSON.stringify(blocks.told().loras.map(essence));
    const seconds = it.seconds ? t("{seconds} s", { seconds: it.seconds.toFixed(1) }) : "";
    return [t("Try {number}", { number: it.id }), seconds, same ? "" : t("the numbers have changed since")].filter(Boolean).join(" · ");
  }

  const essence = (one) => { const columns = blocks.columns(); return [one.name, one.te, one.unet, Boolean(one.hidden), columns.map((block) => (one.weights ? one.weights[block] : 1))]; };

  // The picture of A that is held against the one that is looked at: of the same prompt and seed where there is one.
  const partner = (one) => { const place = boards().placeOf(one); return place >= 0 ? place : Math.min(boards().picture, Math.max(0, (one.pictures || []).length - 1)); };

  function aboutPair(one, other) {
    const scenes = [boards().scenes(one.mix)[partner(one)], other ? boards().scenes(other.mix)[boards().picture] : null];
    const names = t("A: try {first}, B: try {second}.", { first: one.id, second: other ? other.id : "…" });
    if (!scenes[0] || !scenes[1]) return names;
    const apart = scenes[0].seed !== scenes[1].seed || scenes[0].prompt !== scenes[1].prompt;
    return `${names} ${apart ? t("They differ in seed or prompt as well.") : t("Same seed, {seed}.", { seed: scenes[0].seed })}`;
  }

  function drawThumbs(box, it, count, scenes) {
    show(box.thumbs, count > 1);
    show(box.scene, count > 1);
    if (count < 2) return;
    const each = scenes(it.mix), { seeds } = it.mix.shot;
    box.thumbs.style.setProperty("--row", seeds.length > 1 ? seeds.length : count);
    say(box.scene, each[boards().picture] ? t("Seed {seed}: {prompt}", each[boards().picture]) : "");
    mark(box.scene, "title", box.scene.textContent);
    fill(box.thumbs, JSON.stringify([it.id, it.thumbs, it.drafts, count]), () => Array.from({ length: count }, (_, n) => make("button", { type: "button", title: each[n] ? t("Seed {seed}: {prompt}", each[n]) : null, "aria-label": t("Picture {number}", { number: n + 1 }), onclick: () => { boards().picture = n; blocks.redraw(); } },
      boards().thumbOf(it, n) || boards().pictureOf(it, n) ? make("img", { src: boards().thumbOf(it, n) || boards().pictureOf(it, n), alt: "" }) : "…")));
    [...box.thumbs.children].forEach((one, n) => mark(one, "aria-pressed", n === boards().picture));
  }

  blocks.part("picture", "picture", { build, draw });
  Object.assign(blocks, { stage: { heat(maps) { heat = maps; blocks.redraw(); }, compare(name) { enter(name); } } });
})();
